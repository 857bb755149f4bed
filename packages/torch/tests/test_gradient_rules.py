"""The rules by which values and thresholds learn: scaled by the rounding error, and thresholds as logarithms."""

import copy

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import Method, weights_config
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.kernels.limits import limited

RULES = {"threshold_domain": "log2", "ewgs": 0.4}
ROWS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
WAYS = {
    "small": {},
    "blocks": {"small": 0, "block": 2, "numba": False},
    "numba": {"small": 0, "thread": 2, "row": 0, "numba": True},
}


def prepared(method="power_of_two", rules=RULES, **weights):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 2))
    scheme = {"num_bits": 3, "method": method, **rules}
    return tq.prepare(network, tq.Recipe({**scheme, **weights}, scheme), [ROWS], verbose=False)


def trained(model, steps=3, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(ROWS) - ROWS[:, :2]).square().mean().backward()
        optimizer.step()
    return model


# 3 bits signed, step 0.5
VALUES = [-9.0, -2.0, -0.8, -0.35, 0.0, 0.2, 0.65, 1.5, 9.0]
ERRORS = [0.0, 0.0, -0.4, -0.3, 0.0, -0.4, -0.3, 0.0, 0.0]  # (y - x)/step inside


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_rounding_error_scales_the_gradient_of_values_and_of_nothing_else(way, sign):
    x = torch.tensor(VALUES, requires_grad=True)
    results = []
    for delta in (0.5, 0.0):
        x.grad = None
        ends = [torch.tensor(end, requires_grad=True) for end in (-2.0, 1.5)]
        with limited(**WAYS[way]):
            y = fake_quantize(x, *ends, Grid(3, True), None, True, 1.0, delta)
            y.backward(torch.full_like(y, sign))
        results.append((x.grad, y, *(end.grad for end in ends)))
    (scaled, *others), (plain, *wanted) = results
    torch.testing.assert_close(scaled, plain * (1 - 0.5 * sign * torch.tensor(ERRORS)))
    assert all(map(torch.equal, others, wanted))


def test_an_optimizer_moves_a_threshold_in_the_log2_domain_by_factors():
    config = weights_config({tq.THRESHOLD: [0.01, 1.0, 100.0]}, threshold_domain="log2")
    quantizer, owner = tq.LSQSymmetricWeightsTrainableQuantizer(config), nn.Module()
    quantizer.initialize_quantization(torch.Size([3, 1]), "weight", owner)
    optimizer = torch.optim.Adam(owner.parameters(), 0.125)
    for _ in range(8):
        optimizer.zero_grad()
        quantizer(torch.full((3, 1), 1000.0)).sum().backward()
        optimizer.step()
    factors = quantizer.read_variable("threshold") / np.array([0.01, 1.0, 100.0])
    assert factors.max() < 0.6
    np.testing.assert_allclose(factors, factors[0], rtol=1e-3)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "lut_power_of_two"])
def test_a_model_trains_converts_bit_for_bit_and_resumes_exactly(method):
    rules = {"threshold_domain": "log2"} if "lut" in method else RULES
    model = prepared(method, rules)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    trained(model, 2, optimizer)
    fresh = prepared(method, rules)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    again = torch.optim.Adam(fresh.parameters(), 0.05)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (trained(model, 2, optimizer), trained(fresh, 2, again)):
        assert all(map(torch.equal, each.parameters(), model.parameters()))
        assert torch.equal(tq.convert(copy.deepcopy(each).eval())(ROWS), model.eval()(ROWS))


def test_compiled_whole_it_learns_the_same():
    model = prepared("symmetric")
    gradients = []
    for call in (model, torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")):
        model.zero_grad()
        call(ROWS).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_transforms_see_the_same_gradients():
    model = prepared("symmetric")
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().mean()

    gradient = torch.func.grad(loss)
    of_samples = torch.func.vmap(gradient, (None, 0))(parameters, ROWS[:3, None])
    for index, row in enumerate(ROWS[:3, None]):
        model.zero_grad()
        loss(parameters, row).backward()
        found, alone = gradient(parameters, row), {name: value.grad for name, value in parameters.items()}
        torch.testing.assert_close(found, alone)
        torch.testing.assert_close({name: value[index] for name, value in of_samples.items()}, alone)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric"])
def test_files_of_parameters_hold_thresholds_of_every_domain(method, tmp_path):
    linear, log2 = prepared(method, {}), trained(prepared(method))
    log2_again = prepared(method)
    for model in (linear, log2_again):
        for layer in (0, 2):
            model[layer].layer.load_state_dict(log2[layer].layer.state_dict())
    tq.save_quantizers(log2, tmp_path / "log2.safetensors")
    for model in (linear, log2_again):
        tq.load_quantizers(model, tmp_path / "log2.safetensors")
        assert torch.equal(model.eval()(ROWS), log2.eval()(ROWS))


def test_telemetry_is_that_of_thresholds_in_every_domain():
    def loss(model, batch):
        return model(batch).square().mean()

    of_thresholds, of_logarithms = (
        tq.telemetry(prepared(rules=rules), [ROWS], loss) for rules in ({}, {"threshold_domain": "log2"})
    )
    assert of_logarithms == pytest.approx(of_thresholds, rel=1e-5)


def test_thresholds_that_do_not_learn_yet_keep_their_logarithms():
    model = prepared(schedule={"learn_from": 2})
    quantizer = model[0].weights_quantizers["weight"]
    start = quantizer.read_variable("threshold")
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    tq.follow_optimizer(model, optimizer)
    trained(model, 2, optimizer)
    assert np.array_equal(quantizer.read_variable("threshold"), start)
    trained(model, 1, optimizer)
    assert not np.array_equal(quantizer.get_quantizer_variable("threshold").detach(), np.log2(start))


def test_weights_are_reconstructed_as_without_the_rules():
    found = [tq.reconstruct(prepared(rules=rules, bias="float"), [ROWS], steps=5) for rules in ({}, RULES)]
    assert torch.equal(*(model.eval()(ROWS) for model in found))


MEANINGLESS = [
    (tq.AdaRoundSymmetricWeightsTrainableQuantizer, Method.SYMMETRIC, {}, "0 with soft rounding, got 0.4"),
    (
        tq.LSQTableWeightsTrainableQuantizer,
        Method.LUT_SYM_QUANTIZER,
        {tq.LUT_VALUES: list(range(16))},
        "0 with a look-up",
    ),
]


@pytest.mark.parametrize(("quantizer", "method", "table", "message"), MEANINGLESS)
def test_a_rounding_error_that_is_none_is_refused(quantizer, method, table, message):
    config = weights_config({tq.THRESHOLD: 1.0, **table}, weights_quantization_method=method, ewgs=0.4)
    with pytest.raises(tq.QuantizerError, match=f"{quantizer.__name__}: ewgs must be {message}"):
        quantizer(config)


def test_a_quantizer_shows_its_rules():
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config(**RULES))
    assert repr(quantizer).endswith("channels on axis 0, log2 threshold, ewgs 0.4)")
