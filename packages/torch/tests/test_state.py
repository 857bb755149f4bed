"""State dictionaries hold the structure of quantizers, and models of another structure do not take them."""

import pytest
import torch
import trainable_quantizers_torch as tq
from safetensors.torch import load_file, save_file
from torch import nn

ONES, BOTH = torch.rand(16, 4), torch.randn(16, 4)


def prepared(data, **weights):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 2))
    with torch.no_grad():
        network[0].bias.fill_(3.5)
    recipe = tq.Recipe({"num_bits": 4, **weights}, {"num_bits": 4})
    return tq.prepare(network, recipe, [data], verbose=False)


@pytest.mark.parametrize("first, later", [(ONES, BOTH), (BOTH, ONES)])
@pytest.mark.parametrize("through", ["dictionary", "safetensors"])
def test_a_state_brings_the_signs_that_calibration_found(first, later, through, tmp_path):
    trained, resumed = prepared(first), prepared(later)
    state = trained.state_dict()
    if through == "safetensors":
        save_file(state, tmp_path / "state.safetensors")
        state = load_file(tmp_path / "state.safetensors")
    resumed.load_state_dict(state, strict=True)
    assert torch.equal(resumed(BOTH), trained(BOTH))
    assert torch.equal(tq.convert(resumed.eval())(BOTH), tq.convert(trained.eval())(BOTH))
    quantizer = resumed[0].activation_quantizers["input"].activation_holder_quantizer
    assert type(quantizer).from_config(quantizer.get_config()).specification.grid.signed is (first is BOTH)


STRUCTURES = [
    {"num_bits": 5},
    {"method": "symmetric"},
    {"granularity": "per_tensor"},
    {"threshold_domain": "log2"},
    {"oscillations": {}},
    {"training_method": "DQA", "bits_candidates": [4, 8], "schedule": {"ramp": 9}},
]


@pytest.mark.parametrize("other", STRUCTURES)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_structure_is_refused(other, strict):
    model = prepared(BOTH)
    before = [parameter.clone() for parameter in model[0].parameters()]
    with pytest.raises(RuntimeError, match=r"0: quantizer of 'weight' must be as in the saved state"):
        model.load_state_dict(prepared(BOTH, **other).state_dict(), strict=strict)
    assert all(map(torch.equal, before, model[0].parameters()))


def test_a_state_of_thresholds_is_refused_for_their_logarithms():
    state, message = prepared(BOTH).state_dict(), r"\(threshold_domain linear\), got threshold_domain log2"
    with pytest.raises(RuntimeError, match=rf"0: quantizer of 'weight' must be as in the saved state {message}"):
        prepared(BOTH, threshold_domain="log2").load_state_dict(state)


def test_a_damaged_structure_is_refused():
    model = prepared(BOTH)
    state = model.state_dict()
    state["0._extra_state"] = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="0: _extra_state must be as this package writes it"):
        model.load_state_dict(state)


def test_a_state_of_parameters_and_buffers_alone_loads_strictly():
    trained, fresh = prepared(BOTH), prepared(BOTH)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.75)
    fresh.load_state_dict({**dict(trained.named_parameters()), **dict(trained.named_buffers())}, strict=True)
    assert torch.equal(fresh(BOTH), trained(BOTH))


@pytest.mark.parametrize("strict", [True, False])
def test_the_state_of_a_float_or_converted_model_is_refused_and_not_skipped(strict):
    model = prepared(BOTH)
    network = nn.Sequential(nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 2))
    for each in (network, tq.convert(model)):
        with pytest.raises(
            RuntimeError, match=r"must be those of a prepared model, got '0\.weight'; load the state of a"
        ):
            model.load_state_dict(each.state_dict(), strict=strict)
