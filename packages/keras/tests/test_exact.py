"""One deployed network computes the same bits in whatever order its sums are added."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_trained import IMAGES, trained
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid, largest_bias, largest_sum, limited
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_keras.keras_version import keras


def saved(model: Any, x: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        tq.export(model, f"{folder}/model", x[:2])
        loaded = tf.saved_model.load(f"{folder}/model")  # held while it runs, with its variables
        return loaded.serve(x).numpy()


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "one by one": lambda model, x: np.concatenate([model(image[None]).numpy() for image in x]),
    "tf.function": lambda model, x: tf.function(model)(x).numpy(),
    "XLA": lambda model, x: tf.function(model, jit_compile=True)(x).numpy(),
    "SavedModel": saved,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [8, 4])
def test_outputs_are_the_same(bits, way):
    deployed = tq.convert(trained(bits))
    assert np.array_equal(WAYS[way](deployed, IMAGES), deployed(IMAGES).numpy())


@pytest.mark.parametrize("layer", ["stem", "depthwise", "wide", "up", "twice", "head"])
def test_a_bias_is_a_multiple_of_the_steps_of_weights_and_input(layer):
    model = trained()
    wrapper = model.get_layer(layer)
    (weights,) = wrapper.weights_quantizers.values()
    inputs = [each.step().numpy() for each in wrapper.accumulator.inputs]
    assert len(inputs) == (2 if layer == "twice" else 1)
    bias = np.array(tq.convert(model).get_layer(layer).layer.bias, np.float64)
    step = np.repeat(weights.step().numpy() * max(inputs), 2 if layer == "depthwise" else 1)
    assert np.array_equal(bias / step, np.rint(bias / step))
    assert not np.array_equal(bias, np.array(wrapper.layer.bias))


@pytest.mark.parametrize("bits", [12, pytest.param(24, marks=pytest.mark.long)])
def test_no_sum_exceeds_the_bits_that_a_recipe_allows(bits, tmp_path):
    model = trained(accumulator_bits=bits)
    deployed = tq.convert(model)
    assert np.array_equal(deployed(IMAGES).numpy(), model(IMAGES).numpy())
    layers = {layer.name: layer for layer in model.layers if hasattr(layer, "accumulator_bits")}
    found = {name: layer.accumulator_bits() for name, layer in layers.items()}
    assert len(found) == 6 and max(found.values()) <= bits
    program = tq.to_integer(deployed, IMAGES[:1])
    sums = {each.name.partition("/")[0]: each.worst for each in program.accumulators()}
    assert all(sums[name] <= found[name] for name in found)
    model.save(tmp_path / "model.keras")
    again = tq.keras_load_quantized_model(tmp_path / "model.keras")
    assert [layer.accumulator.bits for layer in again.layers if hasattr(layer, "accumulator_bits")] == [bits] * 6
    assert np.array_equal(again(IMAGES).numpy(), model(IMAGES).numpy())


def test_the_bits_that_sums_needed_are_those_of_the_program():
    model = trained()
    program = tq.to_integer(tq.convert(model), IMAGES)
    layers = [layer.name for layer in model.layers if hasattr(layer, "accumulator_bits") and layer.name != "twice"]
    found = {each.name.partition("/")[0]: each.seen for each in program.accumulators(IMAGES)}
    wanted = {name: found[name] for name in layers}  # "twice" has two grids, of which the program knows each
    figures = tq.telemetry(model, [IMAGES[:16], IMAGES[16:]])
    told = {name.partition(".")[0]: bits for name, bits in figures.items() if name.endswith("/accumulator_bits_seen")}
    assert {name: told[name] for name in layers} == wanted
    report = tq.report(model, [IMAGES])
    seen = {each.layer: each.accumulator_bits_seen for each in report.tensors if each.target == "weights"}
    assert {name: seen[name] for name in layers} == wanted
    rows = {row.layer: row.reason for row in tq.summary(model, [IMAGES]).rows}
    assert all(f" bits, {wanted[name]} seen" in rows[name] for name in layers)
    assert " seen" not in str(tq.summary(model))


def test_an_activation_function_of_a_layer_is_no_part_of_its_sums():
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "sigmoid", name="gate")])
    model = tq.prepare(network, tq.Recipe.preset("power_of_two_8bit"), [x], verbose=False)
    (found,) = tq.to_integer(tq.convert(model), x).accumulators(x)
    assert tq.telemetry(model, [x])["gate.kernel/accumulator_bits_seen"] == found.seen > 9


IN_THREADS = """
import sys
import numpy, tensorflow
folder, images = sys.argv[1], numpy.load(f"{sys.argv[1]}/images.npy")
threading = tensorflow.config.threading
threading.set_intra_op_parallelism_threads(3 - min(int(sys.argv[2]), 2))
loaded = tensorflow.saved_model.load(f"{folder}/model")  # held while it runs, with its variables
numpy.save(f"{folder}/found.npy", loaded.serve(images))
"""


def test_outputs_are_the_same_with_one_thread_and_more(tmp_path):
    model = tq.convert(trained())
    tq.export(model, tmp_path / "model", IMAGES[:2])
    np.save(tmp_path / "images.npy", IMAGES)
    here = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    subprocess.run([sys.executable, "-c", IN_THREADS, tmp_path, str(here)], check=True)
    assert np.array_equal(np.load(tmp_path / "found.npy"), model(IMAGES).numpy())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("weight_bits", "bits"), [(8, 24), (4, 16), (2, 32)])
def test_weights_too_few_to_exceed_a_limit_are_not_looked_at(weight_bits, bits, signed):
    method, params = tq.QuantizationMethod.POWER_OF_TWO, {tq.THRESHOLD: 1.0, tq.SIGNED: signed}
    config = tq.TrainableQuantizerActivationConfig(method, 8, params, True, tq.MIN_THRESHOLD)
    inputs = tq.STESymmetricActivationTrainableQuantizer(config)
    config = tq.TrainableQuantizerWeightsConfig(
        method, weight_bits, {tq.THRESHOLD: 1.0}, True, 0, True, tq.MIN_THRESHOLD
    )
    weights = tq.STESymmetricWeightsTrainableQuantizer(config)
    grid = tq.AccumulatorGrid(inputs, bits, 0)
    most = max(count for count in map(int, 2.0 ** np.arange(0, 24, 0.125)) if grid.always_holds(weights, count))
    room = np.float32([largest_sum(bits) - largest_bias(bits)])

    def exceeds(count):
        lowest = np.full((1, count), -(2 ** (weight_bits - 1)), np.float32)
        return bool(limited(NUMPY_OPS, lowest, room, 128 if signed else 255, signed)[1].any())

    assert not exceeds(most)
    assert exceeds(most + most // 8 + 2) or most > 2**22  # float32 adds no more of them exactly


def test_a_limited_weight_learns_straight_through():
    wrapper = trained(accumulator_bits=12).get_layer("wide")
    (quantizer,) = wrapper.weights_quantizers.values()
    weight, step = wrapper.layer.kernel, quantizer.step().numpy()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(wrapper.get_quantized_weights()["kernel"])
    levels = weight.numpy() / step
    gradient = tape.gradient(total, wrapper.trainable_variables)
    (of_weight,) = (each for each in gradient if each is not None and each.shape == weight.shape)
    assert np.array_equal(of_weight.numpy(), ((levels <= 127) & (levels >= -128)).astype(np.float32))


def test_where_sums_have_no_grid_the_summary_says_that_no_limit_holds():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    recipe = tq.Recipe(tq.WeightsScheme(accumulator_bits=16), tq.ActivationsScheme(method="symmetric"))
    model = tq.prepare(network, recipe, [np.random.randn(8, 4).astype("float32")], verbose=False)
    (row,) = (row for row in tq.summary(model).rows if row.weights)
    assert row.reason.endswith("bias in float and sums without a limit: the input is not on a power-of-two grid")


def test_float_biases_stay_where_a_recipe_says_so():
    model = trained(bias="float")
    assert np.array_equal(tq.convert(model).get_layer("head").layer.bias, model.get_layer("head").layer.bias)


@pytest.mark.parametrize("load", [tq.keras_load_quantized_model, keras.models.load_model])
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_model_from_a_file_follows_its_own_quantizers(ending, load, tmp_path):
    model = trained()
    options = {"include_optimizer": False} if ending == "h5" else {}  # HDF5 takes a name once; optimizers repeat some
    model.save(tmp_path / f"model.{ending}", **options)
    other = load(tmp_path / f"model.{ending}")
    own = [layer.activation_holder_quantizer for layer in other.layers if hasattr(layer, "activation_holder_quantizer")]
    grids = [layer.accumulator for layer in other.layers if getattr(layer, "accumulator", None) is not None]
    assert len(grids) == 6
    assert all(found in own for grid in grids for found in grid.inputs)
    assert np.array_equal(other(IMAGES).numpy(), model(IMAGES).numpy())


def test_the_bias_learns_straight_through_and_nothing_learns_through_its_grid():
    wrapper = trained().get_layer("head")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(wrapper.get_quantized_weights()["bias"])
    variables = wrapper.trainable_variables
    gradients = tape.gradient(total, variables)
    (of_bias,) = (gradient for gradient in gradients if gradient is not None)
    assert len(gradients) == 3 and of_bias.numpy().tolist() == [1.0] * 10


def weights_quantizer(method: Any) -> Any:
    config = tq.TrainableQuantizerWeightsConfig(method, 4, {tq.THRESHOLD: 1.0}, True, -1, True, tq.MIN_THRESHOLD)
    return tq.LSQSymmetricWeightsTrainableQuantizer(config)


def test_a_layer_alone_takes_the_step_of_its_input():
    layer = keras.layers.Dense(2, bias_initializer="random_normal")
    quantizer = weights_quantizer(tq.QuantizationMethod.POWER_OF_TWO)
    wrapper = tq.KerasTrainableQuantizationWrapper(layer, {"kernel": quantizer}, accumulator=AccumulatorGrid(2**-4))
    x = np.zeros((1, 3), np.float32)
    expected = np.rint(wrapper(x).numpy() * 2**7) / 2**7
    assert np.array_equal(wrapper(x).numpy(), expected)
    assert not np.array_equal(np.array(layer.bias), expected[0])
    assert np.array_equal(wrapper.convert_to_inferable_quantizers()(x).numpy(), expected)


@pytest.mark.parametrize(
    ("bias", "method", "message"),
    [
        (False, tq.QuantizationMethod.POWER_OF_TWO, "accumulator must be one without a bias, got 'Dense'"),
        (True, tq.QuantizationMethod.SYMMETRIC, "one power-of-two quantizer with accumulator"),
    ],
)
def test_without_such_a_grid_there_is_an_error(bias, method, message):
    with pytest.raises(tq.QuantizerError, match=message):
        tq.KerasTrainableQuantizationWrapper(
            keras.layers.Dense(2, use_bias=bias),
            {"kernel": weights_quantizer(method)},
            accumulator=AccumulatorGrid(0.5),
        )


def test_a_wrapper_that_lost_its_input_says_what_to_do():
    model = trained()
    wrapper = model.get_layer("wide")
    alone = type(wrapper).from_config({**wrapper.get_config(), "accumulator": {"inputs": ["block/relu_quantized"]}})
    alone.build((None, 12, 12, 32))
    with pytest.raises(Exception, match="load the model with keras_load_quantized_model"):
        alone(np.zeros((1, 12, 12, 32), np.float32))
