"""Flip rates of weights while a model trains, freezing of those that oscillate, and the term that dampens them."""

import copy
import io
import re

import pytest
import torch
import trainable_quantizers_torch as tq
from mct_quantizers import PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core.constants import FLIP_RATE, MEAN_LEVEL, MOVES
from trainable_quantizers_core.quantizer.oscillations import level_and_direction
from trainable_quantizers_torch.inventory import quantized_weights
from trainable_quantizers_torch.kernels.effective import TORCH_OPS
from trainable_quantizers_torch.layers.holder import TrainableWeightHolder

X = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))
RULE = {"momentum": 0.25, "freeze_above": 0.2}


def prepared(method="power_of_two", oscillations=RULE, **fields):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    recipe = tq.Recipe({"num_bits": 3, "method": method, "oscillations": oscillations, **fields}, {"num_bits": 4})
    return tq.prepare(network, recipe, [X], verbose=False)


def start(model):
    optimizer = torch.optim.AdamW(tq.parameter_groups(model), 0.05, weight_decay=0.1)
    tq.follow_optimizer(model, optimizer)
    return optimizer


def train(model, optimizer, steps):
    """Weights go back and forth: the rate changes its sign."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= -0.95


def frozen(model):
    return [
        level_and_direction(TORCH_OPS, quantizer.get_quantizer_variable(MOVES).float())[1] == 2
        for _, quantizer in quantized_weights(model)
    ]


def assert_equal_states(one, other):
    for (name, value), again in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_weights_that_oscillate_stay_at_their_level_and_are_deployed_there(method):
    model = prepared(method)
    optimizer = start(model)
    train(model, optimizer, 4)
    held = frozen(model)
    assert all(0 < each.float().mean() < 1 for each in held)
    levels = [quantizer.read_variable(MEAN_LEVEL) for _, quantizer in quantized_weights(model)]
    train(model, optimizer, 3)
    for (weight, quantizer), was, level in zip(quantized_weights(model), held, levels, strict=True):
        unit = quantizer.broadcast(quantizer.step(), weight)
        wanted = unit * quantizer.get_quantizer_variable(MEAN_LEVEL).round()
        assert torch.equal(weight[was], wanted[was])
        if method != "power_of_two":  # whose step may have changed
            assert torch.equal(quantizer.get_quantizer_variable(MEAN_LEVEL)[was], torch.tensor(level)[was])
        assert not torch.equal(weight[~was], wanted[~was])
    assert torch.equal(tq.convert(model)(X), model.eval()(X))


def test_a_forward_changes_nothing_and_rates_alone_change_no_weight():
    model, plain = prepared(oscillations={"momentum": 0.25}), prepared(oscillations=False)
    for each in (model, plain):
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        if each is model:
            tq.follow_optimizer(model, optimizer)
        train(each, optimizer, 4)
    before = copy.deepcopy(model)
    model(X)
    assert_equal_states(model, before)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(quantizer.read_variable(FLIP_RATE).any() for _, quantizer in quantized_weights(model))
    assert not any(each.any() for each in frozen(model))


def test_a_training_that_resumes_goes_on_as_the_one_that_was_never_interrupted():
    model = prepared(schedule={"start": 1, "ramp": 2, "learn_until": 5})
    optimizer = start(model)
    train(model, optimizer, 4)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, optimizer, 4)
    again = prepared(schedule={"start": 1, "ramp": 2, "learn_until": 5})
    resumed = start(again)
    file.seek(0)
    state, of_optimizer = torch.load(file)
    again.load_state_dict(state)
    resumed.load_state_dict(of_optimizer)
    train(again, resumed, 4)
    assert_equal_states(model, again)
    assert any(each.any() for each in frozen(again))
    with pytest.raises(RuntimeError, match=r"0: quantizer of 'weight' must be as in the saved state \(oscillations Tr"):
        prepared(oscillations=False).load_state_dict(state)


def test_a_functional_call_sees_frozen_weights():
    model = prepared()
    train(model, start(model), 4)
    assert any(each.any() for each in frozen(model))
    assert torch.equal(torch.func.functional_call(prepared(), model.state_dict(), (X,)), model(X))


def test_a_step_that_was_left_out_counts_for_nothing():
    model = prepared()
    optimizer = start(model)
    train(model, optimizer, 3)
    before = copy.deepcopy(model)
    tq.advance_schedules(model, torch.tensor(0))
    assert_equal_states(model, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_follow_their_weights(dtype):
    model = prepared().to(dtype)
    for change in (0.2, -0.2, 0.2, -0.2):
        with torch.no_grad():
            model[3].layer.weight.add_(change)
        tq.advance_schedules(model)
    (weight, quantizer), held = list(quantized_weights(model))[1], frozen(model)[1]
    assert held.any()
    levels = (weight.float() / quantizer.broadcast(quantizer.step(), weight))[held]
    torch.testing.assert_close(levels, levels.round())


def test_telemetry_tells_the_shares():
    model = prepared(oscillations={**RULE, "start": 5})
    train(model, start(model), 4)
    found = tq.telemetry(model, [X])
    rates = [quantizer.get_quantizer_variable(FLIP_RATE) for _, quantizer in quantized_weights(model)]
    assert [found[f"{name}.weight/oscillating"] for name in "03"] == [(r > 0.005).float().mean() for r in rates]
    assert (found["0.weight/frozen"], found["3.weight/frozen"]) == (0, 0)
    train(model, start(model), 2)
    found = tq.telemetry(model, [X])
    assert [found[f"{name}.weight/frozen"] for name in "03"] == [each.float().mean() for each in frozen(model)]
    assert not any("frozen" in name for name in tq.telemetry(prepared(oscillations=False), [X]))


def test_damping_pulls_weights_to_their_levels_and_reaches_nothing_else():
    model = prepared("symmetric", False, calibration="percentile", percentile=80.0)
    loss = tq.oscillation_damping(model)
    loss.backward()
    wanted = 0.0
    for weight, quantizer in quantized_weights(model):
        low, high = (quantizer.broadcast(end, weight).detach() for end in quantizer.effective_range())
        distance = (weight.clamp(low, high) - quantizer(weight)).detach()
        wanted += distance.square().sum()
        inside = (weight >= low) & (weight <= high)
        assert not inside.all()
        torch.testing.assert_close(weight.grad, 2 * distance * inside)
    torch.testing.assert_close(loss.detach(), wanted)
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["0.layer.weight", "3.layer.weight"]
    with torch.no_grad():
        for weight, quantizer in quantized_weights(model):
            weight.copy_(quantizer(weight))
    assert tq.oscillation_damping(model) < 1e-12


def test_sums_keep_within_their_bits():
    model = prepared(accumulator_bits=9)
    train(model, start(model), 5)
    assert any(each.any() for each in frozen(model))
    assert all(each.accumulator_bits() <= 9 for each in (model[0], model[3]))
    assert torch.equal(tq.convert(model)(X), model.eval()(X))


def test_a_weight_of_two_layers_is_followed_once():
    one = nn.Linear(4, 4)
    model = tq.prepare(nn.Sequential(one, nn.ReLU(), one), tq.Recipe({"num_bits": 3, "oscillations": RULE}))
    ((weight, quantizer),) = quantized_weights(model)
    for change in (0.3, -0.3, 0.3):
        with torch.no_grad():
            weight.add_(change)
        tq.advance_schedules(model)
    rates = quantizer.read_variable(FLIP_RATE)
    assert set(rates.flatten().tolist()) == {0.0, 0.25}


def test_the_wrapper_of_mct_quantizers_is_followed_too():
    config = tq.WeightsScheme(num_bits=2).config({"threshold": 1.0}, 0)
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(config, oscillations=tq.Oscillations(**RULE))
    model = nn.Sequential(PytorchQuantizationWrapper(nn.Linear(4, 2, bias=False), {"weight": quantizer}))
    for value in (0.3, 0.2, 0.3, 0.2):
        nn.init.constant_(model[0].weight, value)
        tq.advance_schedules(model)
    assert torch.equal(model[0].weight, torch.full((2, 4), 0.5))
    assert torch.equal(tq.convert(model)(torch.ones(1, 4)), torch.full((1, 2), 2.0))


CONFIG = tq.WeightsScheme(num_bits=2).config({"threshold": 1.0}, 0)
FOLLOWED = tq.Oscillations(freeze_above=0.1)
MISTAKES = {
    "no rule": (
        lambda: tq.LSQSymmetricWeightsTrainableQuantizer(CONFIG, oscillations=RULE),
        "oscillations must be an instance of Oscillations",
    ),
    "activations": (
        lambda: tq.LSQSymmetricActivationTrainableQuantizer(
            tq.ActivationsScheme().config({"threshold": 1.0}), oscillations=FOLLOWED
        ),
        "oscillations must be None except for weights of evenly spaced levels",
    ),
    "soft rounding": (
        lambda: prepared(training_method="AdaRound"),
        "leave them out for activations, look-up tables and AdaRound",
    ),
    "a table": (
        lambda: prepared("lut_symmetric"),
        "leave them out for activations, look-up tables and AdaRound",
    ),
    "a weight of no layer": (
        lambda: TrainableWeightHolder(tq.LSQSymmetricWeightsTrainableQuantizer(CONFIG, oscillations=FOLLOWED), (2, 3)),
        "one without AdaRound and oscillations for a weight that no layer owns alone",
    ),
    "a part of a weight": (
        lambda: prepared()[0].weights_quantizers["weight"].follow(torch.zeros(36)),
        "weight must be of shape (4, 2, 3, 3), got torch.Size([36]); shard the model with fully_shard",
    ),
    "nothing to dampen": (
        lambda: tq.oscillation_damping(nn.Linear(2, 2)),
        "oscillation_damping: model must be one with quantized weights of layers, got 'Linear'; prepare it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()
