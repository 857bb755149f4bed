"""Weights learn how they are rounded: from the float weight, through a schedule, to what is deployed."""

import io

import pytest
import torch
import trainable_quantizers_torch as tq
from mct_quantizers import PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_torch.layers.holder import TrainableWeightHolder

X = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))
SCHEDULE = {"start": 2, "ramp": 4}


def prepared(method="power_of_two", **fields):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    weights = {"num_bits": 3, "method": method, "training_method": "AdaRound", "calibration": "min_max"}
    recipe = tq.Recipe({**weights, "bias": "float", "schedule": SCHEDULE, **fields})
    return network, tq.prepare(network, recipe, [X], verbose=False)


def train(model, network, steps, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.05)
    handle = tq.follow_optimizer(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        distance = (model(X) - network(X).detach()).square().mean()
        (distance + 1e-3 * tq.rounding_regularizer(model)).backward()
        optimizer.step()
    handle.remove()
    return optimizer


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_training_begins_at_the_float_network_and_ends_at_the_deployed_one(method):
    network, model = prepared(method)
    weight = model[0].get_quantized_weights()["weight"]
    ends = (end.reshape(4, 1, 1, 1) for end in model[0].weights_quantizers["weight"].effective_range())
    assert torch.equal(weight, torch.clamp(network[0].weight, *ends))
    assert not torch.equal(model.eval()(X), network(X))
    train(model.train(), network, 6)
    assert model[0].weights_quantizers["weight"].rounding_of(model[0].layer.weight).shape == weight.shape
    deployed = tq.convert(model)
    assert torch.equal(model(X), deployed(X))
    assert torch.equal(model.eval()(X), deployed.eval()(X))
    nearest = tq.convert(prepared(method)[1])
    assert not torch.equal(nearest(X), deployed(X))


def test_the_regularizer_acts_while_the_schedule_ramps_and_on_alpha_alone():
    model = prepared()[1]
    found = []
    for _ in range(7):
        found.append(tq.rounding_regularizer(model).item())
        tq.advance_schedules(model)
    assert [value > 0 for value in found] == [False, False, True, True, True, True, False]
    _, model = prepared(schedule={"ramp": 4})
    h = model[0].weights_quantizers["weight"].rounding_of(model[0].layer.weight)
    h = torch.cat([h.flatten(), model[3].weights_quantizers["weight"].rounding_of(model[3].layer.weight).flatten()])
    tq.advance_schedules(model, 2)
    loss = tq.rounding_regularizer(model)
    torch.testing.assert_close(loss, (1 - (2 * h - 1).abs() ** 11).sum())
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"0.weight_alpha", "3.weight_alpha"}


def test_a_resumed_training_is_the_same():
    network, model = prepared()
    optimizer = train(model, network, 3)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, network, 3, optimizer)
    again = prepared()[1]
    resumed = torch.optim.Adam(again.parameters(), 0.05)
    file.seek(0)
    state, of_optimizer = torch.load(file)
    again.load_state_dict(state)
    resumed.load_state_dict(of_optimizer)
    train(again, network, 3, resumed)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(tq.convert(model)(X), tq.convert(again)(X))


def test_the_wrapper_of_mct_quantizers_converts_too():
    config = tq.WeightsScheme(num_bits=2).config({"threshold": 1.0}, 0)
    quantizer = tq.AdaRoundSymmetricWeightsTrainableQuantizer(config)
    model = nn.Sequential(PytorchQuantizationWrapper(nn.Linear(4, 2), {"weight": quantizer}))
    nn.init.constant_(quantizer.get_quantizer_variable("alpha"), 9.0)
    x = X.flatten(1)[:, :4]
    expected = nn.functional.linear(x, quantizer(model[0].weight, False), model[0].layer.bias)
    assert torch.equal(tq.convert(model)(x), expected)


def test_alpha_has_no_weight_decay():
    _, model = prepared()
    network, quantizers = tq.parameter_groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert not any("alpha" in names[id(parameter)] for parameter in network["params"])
    assert sum("alpha" in names[id(parameter)] for parameter in quantizers["params"]) == 2


def test_what_cannot_round_softly_is_refused():
    config = tq.WeightsScheme(num_bits=2).config({"threshold": 1.0}, 0)
    with pytest.raises(tq.QuantizerError, match="one without AdaRound and oscillations for a weight"):
        TrainableWeightHolder(tq.AdaRoundSymmetricWeightsTrainableQuantizer(config), (2, 3))
    plain = tq.prepare(nn.Sequential(nn.Linear(4, 2)), tq.Recipe({"num_bits": 2}), verbose=False)
    with pytest.raises(tq.QuantizerError, match="rounding_regularizer: model must be one that learns to round"):
        tq.rounding_regularizer(plain)
