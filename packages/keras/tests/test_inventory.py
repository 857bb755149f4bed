"""The quantizers of a model: their parameters in a file, their figures in a report."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import NETWORKS, outputs
from numpy.testing import assert_array_equal
from trainable_quantizers_core.report import to_html
from trainable_quantizers_keras.inventory import quantizers_of

keras = tf.keras
METHODS = ["power_of_two", "symmetric", "uniform"]


def prepared(name="residual", method="symmetric"):
    keras.utils.set_random_seed(0)
    build, inputs = NETWORKS[name]
    recipe = tq.Recipe({"num_bits": 4, "method": method}, {"num_bits": 4, "method": method})
    return tq.prepare(build(), recipe, [inputs], verbose=False), inputs


def moved(model):
    """As training moves them."""
    for each in quantizers_of(model):
        for name, value in each.values.items():
            each.quantizer.write_variable(name, value * np.float32(1.37))
    return model


MOVED = [("shared", "symmetric"), ("recurrent", "power_of_two"), ("subclassed", "uniform")]


@pytest.mark.parametrize(("name", "method"), [*(("residual", method) for method in METHODS), *MOVED])
def test_parameters_come_back_from_a_file(name, method, tmp_path):
    model, inputs = prepared(name, method)
    fresh = prepared(name, method)[0]
    for part in (model, fresh):
        if name != "subclassed":  # their inner layers may be named anew in each model
            assert len(quantizers_of(part)) > 3
    tq.save_quantizers(moved(model), tmp_path / "learned.safetensors")
    names = {old.layer: new.layer for old, new in zip(quantizers_of(model), quantizers_of(fresh), strict=True)}
    tq.load_quantizers(fresh, tmp_path / "learned.safetensors", names)
    for one, other in zip(outputs(fresh, inputs), outputs(model, inputs), strict=True):
        assert_array_equal(one, other)


def test_each_quantizer_is_named_after_its_layer():
    names = [f"{each.layer}.{each.attribute}" for each in quantizers_of(prepared()[0])]
    assert names[:4] == ["image.output", "first.kernel", "first_relu.output", "second.kernel"]
    assert names[-2:] == ["head.kernel", "head.output"]
    names = [f"{each.layer}.{each.attribute}" for each in quantizers_of(prepared("shared")[0])]
    assert {"twice.output", "twice_1.output", "inner/conv.kernel"} < set(names)
    names = [f"{each.layer}.{each.attribute}" for each in quantizers_of(prepared("subclassed")[0])]
    assert {"first.kernel", "first.output", "blocks.0/first.kernel", "by_name.last.output"} < set(names)


def test_nothing_is_loaded_where_one_does_not_fit(tmp_path):
    model, inputs = prepared()
    tq.save_quantizers(moved(model), tmp_path / "learned.safetensors")
    recipe = tq.Recipe({"num_bits": 4, "method": "symmetric"}, {"num_bits": 3, "method": "symmetric"})
    other = tq.prepare(NETWORKS["residual"][0](), recipe, [inputs], verbose=False)
    before = other.get_weights()
    with pytest.raises(tq.QuantizerError, match="num_bits"):
        tq.load_quantizers(other, tmp_path / "learned.safetensors")
    for value, old in zip(other.get_weights(), before, strict=True):
        assert_array_equal(value, old)


def test_a_model_that_diverged_takes_the_parameters_of_one_that_did_not(tmp_path):
    model, inputs = prepared()
    wanted = outputs(model, inputs)
    tq.save_quantizers(model, tmp_path / "good.safetensors")
    for each in quantizers_of(model):
        for name, value in each.values.items():
            each.quantizer.write_variable(name, value * np.float32("nan"))
    with pytest.raises(tq.QuantizerError, match="training diverged"):
        tq.save_quantizers(model, tmp_path / "bad.safetensors")
    tq.load_quantizers(model, tmp_path / "good.safetensors")
    for one, other in zip(outputs(model, inputs), wanted, strict=True):
        assert_array_equal(one, other)


def test_a_report_without_data_lists_activations():
    report = tq.report(prepared()[0])
    activations = [tensor for tensor in report.tensors if tensor.target == "activation"]
    assert activations
    assert not any(tensor.measured for tensor in activations)
    assert to_html(report).count("not measured") == len(activations)


def test_a_model_without_quantizers_is_refused(tmp_path):
    plain = NETWORKS["chain"][0]()
    for function in (
        lambda m: tq.save_quantizers(m, tmp_path / "none"),
        lambda m: tq.load_quantizers(m, tmp_path / "none"),
        tq.report,
    ):
        for other in (plain, len):
            with pytest.raises(tq.QuantizerError, match="prepare it first"):
                function(other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_a_report_measures_what_the_model_computes(method):
    model, inputs = prepared(method=method)
    report = tq.report(model, [inputs, inputs], {"float": 0.5})
    of = {f"{tensor.layer}.{tensor.attribute}": tensor for tensor in report.tensors}
    first = model.get_layer("first")
    weight = np.asarray(first.layer.kernel, np.float64)
    noise = np.square(weight - first.get_quantized_weights()["kernel"].numpy()).sum()
    assert of["first.kernel"].sqnr == pytest.approx(10 * np.log10(np.square(weight).sum() / noise))
    assert of["first.kernel"].elements == weight.size
    assert of["image.output"].elements == 2 * inputs.size
    assert 0 < of["relu.output"].levels_used <= 1
    assert {layer.name for layer in report.skipped} >= {"first_norm"}
    assert "first_relu" in to_html(report)
