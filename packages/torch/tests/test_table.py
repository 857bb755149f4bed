"""Look-up tables learn with the network, and deploy as they learned."""

from functools import cache

import pytest
import torch
import trainable_quantizers_torch as tq
from mct_quantizers import PytorchQuantizationWrapper, pytorch_quantizers
from torch import nn

X = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))
METHODS = {
    "weights": ("lut_power_of_two", "power_of_two"),
    "symmetric": ("lut_symmetric", "power_of_two"),
    "both": ("lut_power_of_two", "lut_power_of_two"),
}
every = pytest.mark.parametrize("which", METHODS)


def prepared(which, data):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    weights, activations = METHODS[which]
    recipe = tq.Recipe({"method": weights, "num_bits": 3}, {"method": activations, "num_bits": 5})
    return tq.prepare(network, recipe, [data], verbose=False)


@cache
def trained(which):
    model = prepared(which, X)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(4):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model.eval()


@every
def test_tables_learn_and_deploy_as_they_learned(which):
    model, start = trained(which), prepared(which, X)
    tables = [name for name, _ in model.named_parameters() if name.endswith("table")]
    assert len(tables) == (5 if which == "both" else 2)
    moved = [not torch.equal(model.get_parameter(name), start.get_parameter(name)) for name in tables]
    assert all(moved)
    deployed = tq.convert(model)
    assert torch.equal(deployed(X), model(X))
    kind = "Symmetric" if which == "symmetric" else "POT"
    for module in deployed.modules():
        if isinstance(module, PytorchQuantizationWrapper):
            (quantizer,) = module.weights_quantizers.values()
            assert type(quantizer) is getattr(pytorch_quantizers, f"WeightsLUT{kind}InferableQuantizer")
            assert quantizer.lut_values == sorted(quantizer.lut_values)


@every
def test_tables_come_back_from_a_state_and_from_a_parameter_file(which, tmp_path):
    model = trained(which)
    tq.save_quantizers(model, tmp_path / "quantizers")
    for load in (lambda fresh: fresh.load_state_dict(model.state_dict()), by_file(tmp_path / "quantizers", model)):
        fresh = prepared(which, 2 * X).eval()
        assert not torch.equal(fresh(X), model(X))
        load(fresh)
        assert torch.equal(fresh(X), model(X))


def by_file(path, model):
    def load(fresh):
        for name, parameter in model.named_parameters():
            if name.endswith(("layer.weight", "layer.bias")):
                fresh.get_parameter(name).data.copy_(parameter)
        tq.load_quantizers(fresh, path)

    return load


def test_a_state_of_the_other_sign_brings_its_table():
    model = prepared("both", X)
    fresh = prepared("both", X.abs())
    assert not fresh[0].activation_quantizers["input"].activation_holder_quantizer.specification.grid.signed
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(X), model(X))


def test_exported_files_compute_the_same(tmp_path):
    deployed = tq.convert(trained("both"))
    for file in ("model.pt2", "model.onnx"):
        assert tq.export(deployed, tmp_path / file, X).identical


def test_weights_with_power_of_two_tables_are_integers():
    model = trained("weights")
    deployed = tq.convert(model)
    program = tq.to_integer(deployed, X)
    assert (program.run(X.numpy()) == deployed(X).numpy()).all()
    with pytest.raises(tq.QuantizerError, match="operations that integer programs know"):
        tq.to_integer(tq.convert(trained("both")), X)


def test_layers_with_tables_are_not_reconstructed():
    with pytest.raises(tq.QuantizerError, match="of evenly spaced levels, got 'LSQTableWeightsTrainableQuantizer'"):
        tq.reconstruct(prepared("weights", X), [X], steps=5)


def test_a_table_has_no_limit_of_sums():
    found = prepared("weights", X)[0]
    (quantizer,) = found.weights_quantizers.values()
    fresh = type(quantizer)(quantizer.quantization_config)
    inputs = found.accumulator.inputs
    with pytest.raises(tq.QuantizerError, match="a limit takes no table"):
        tq.PytorchTrainableQuantizationWrapper(
            nn.Conv2d(2, 4, 3), {"weight": fresh}, accumulator=tq.AccumulatorGrid(inputs, 16)
        )
