"""The quantizers of a model: their parameters in a file, their figures in a report."""

import re

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tq
from torch_networks import NETWORKS, call
from trainable_quantizers_core.report import to_html
from trainable_quantizers_torch.inventory import quantizers_of

METHODS = ["power_of_two", "symmetric", "uniform"]


def prepared(name="residual", method="symmetric", seed=0, **options):
    torch.manual_seed(seed)
    build, inputs = NETWORKS[name]
    recipe = tq.Recipe({"num_bits": 4, "method": method}, {"num_bits": 4, "method": method})
    return tq.prepare(build(), recipe, [inputs], verbose=False, **options).eval(), inputs


def moved(model):
    """As training moves them."""
    for each in quantizers_of(model):
        for name, value in each.values.items():
            each.quantizer.write_variable(name, value * np.float32(1.37))
    return model


@pytest.mark.parametrize(
    ("name", "method"), [*(("residual", method) for method in METHODS), ("reads attributes", "symmetric")]
)
def test_parameters_come_back_from_a_file(name, method, tmp_path):
    model, inputs = prepared(name, method)
    fresh = prepared(name, method)[0]
    tq.save_quantizers(moved(model), tmp_path / "learned.safetensors")
    assert not torch.equal(call(fresh, inputs), call(model, inputs))
    tq.load_quantizers(fresh, tmp_path / "learned.safetensors")
    assert torch.equal(call(fresh, inputs), call(model, inputs))


def test_each_quantizer_is_named_after_its_layer():
    names = [f"{each.layer}.{each.attribute}" for each in quantizers_of(prepared()[0])]
    assert names[:3] == ["conv1.weight", "conv2.weight", "head.weight"]
    assert names[3:] == [f"{layer}.output" for layer in ("x", "relu", "norm2", "relu_1", "mean", "head")]
    names = [f"{each.layer}.{each.attribute}" for each in quantizers_of(prepared("reads attributes")[0])]
    assert {"head.weight", "head.output", "norm.output"} < set(names)


def test_nothing_is_loaded_where_one_does_not_fit(tmp_path):
    model, _ = prepared()
    tq.save_quantizers(moved(model), tmp_path / "learned.safetensors")
    recipe = tq.Recipe({"num_bits": 4, "method": "symmetric"}, {"num_bits": 3, "method": "symmetric"})
    build, inputs = NETWORKS["residual"]
    other = tq.prepare(build(), recipe, [inputs], verbose=False)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(tq.QuantizerError, match="num_bits"):
        tq.load_quantizers(other, tmp_path / "learned.safetensors")
    for key, value in other.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_model_that_diverged_takes_the_parameters_of_one_that_did_not(tmp_path):
    model, inputs = prepared()
    wanted = call(model, inputs)
    tq.save_quantizers(model, tmp_path / "good.safetensors")
    for each in quantizers_of(model):
        for name, value in each.values.items():
            each.quantizer.write_variable(name, value * np.float32("nan"))
    with pytest.raises(tq.QuantizerError, match="training diverged"):
        tq.save_quantizers(model, tmp_path / "bad.safetensors")
    tq.load_quantizers(model, tmp_path / "good.safetensors")
    assert torch.equal(call(model, inputs), wanted)


def test_a_model_without_quantizers_is_refused(tmp_path):
    with pytest.raises(tq.QuantizerError, match="prepare it first"):
        tq.save_quantizers(torch.nn.Linear(2, 2), tmp_path / "none")
    assert not list(tmp_path.iterdir())
    for function in (lambda m: tq.load_quantizers(m, tmp_path / "none"), tq.report):
        for other in (torch.nn.Linear(2, 2), len):
            with pytest.raises(tq.QuantizerError, match="prepare it first"):
                function(other)


@pytest.mark.parametrize("method", METHODS)
def test_a_report_measures_what_the_model_computes(method):
    model, inputs = prepared(method=method)
    report = tq.report(model, [inputs, inputs], {"float": 0.5})
    of = {f"{tensor.layer}.{tensor.attribute}": tensor for tensor in report.tensors}
    weight = model.conv1.layer.weight.detach()
    quantized = model.conv1.get_quantized_weights()["weight"].detach()
    noise = (weight - quantized).double().square().sum()
    assert of["conv1.weight"].sqnr == pytest.approx(10 * float(torch.log10(weight.double().square().sum() / noise)))
    assert of["conv1.weight"].elements == weight.numel()
    assert of["x.output"].elements == 2 * inputs[0].numel()
    assert 0 < of["relu.output"].levels_used <= 1
    assert {layer.name for layer in report.skipped} >= {"norm1"}
    assert re.search("conv1", to_html(report))


def test_a_report_without_data_lists_activations():
    report = tq.report(prepared()[0])
    assert [tensor.elements for tensor in report.tensors if tensor.target == "activation"] == [0] * 6
    assert to_html(report).count("not measured") == 6


def test_a_report_of_half_precision():
    model, inputs = prepared()
    report = tq.report(model.bfloat16(), [inputs[0].bfloat16()])
    assert all(np.isfinite(tensor.sqnr) for tensor in report.tensors)
