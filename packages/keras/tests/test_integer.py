"""Converted networks as integer programs: numpy, and a C compiler, compute what Keras does, bit for bit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import MOBILE_NET, SHOWN, SPECIAL
from keras_trained import IMAGES, POWERS, trained
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled
from trainable_quantizers_core.integer.rounding import to_integers
from trainable_quantizers_keras.keras_version import KERAS_3, keras

L = keras.layers


def prepared(network: Any, x: Any, preset: str = "power_of_two_8bit") -> Any:
    return tq.convert(tq.prepare(network, tq.Recipe.preset(preset), [x], fold_batch_norm=True, verbose=False))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_program_computes_what_the_network_does(bits, tmp_path):
    deployed = tq.convert(trained(bits))
    program = tq.to_integer(deployed, IMAGES)
    assert tq.verify(deployed, program, [IMAGES]).identical
    assert tq.verify(trained(bits), program, [IMAGES]).identical
    assert not program.float_operations and not program.notes
    assert program.rounding == {RoundingRule.HALF_UP}
    program.save(tmp_path / "program.safetensors")
    assert tq.verify(deployed, tq.Program.load(tmp_path / "program.safetensors"), [IMAGES]).identical


@pytest.mark.parametrize("bits", [8, 4])
def test_a_c_file_computes_what_the_network_does(bits, tmp_path):
    found = tq.export(tq.convert(trained(bits)), tmp_path / "model.c", IMAGES)
    assert found.identical and found.elements == 320
    assert "void model_run(const int8_t *input, int8_t *output)" in (tmp_path / "model.c").read_text()


METHODS = {"symmetric": ("symmetric", "symmetric"), "uniform": ("symmetric", "uniform"), "mixed": ("uniform", POWERS)}


@pytest.mark.parametrize("rescale", ["float32", "fixed_point"])
@pytest.mark.parametrize("methods", METHODS)
def test_where_steps_are_no_powers_of_two_a_program_rescales_and_hardly_a_value_differs(methods, rescale, tmp_path):
    deployed = tq.convert(trained(methods=METHODS[methods]))
    program = tq.to_integer(deployed, IMAGES, rescale=rescale)
    assert program.rescale == {rescale} and not program.float_operations
    found = tq.verify(deployed, program, [IMAGES])
    assert found.layers[0].differing == 0  # what reads the images
    assert sum(layer.differing for layer in found.layers) <= 0.01 * sum(layer.elements for layer in found.layers)
    assert found.differing <= 0.05 * found.elements
    (output,) = (program.values[index] for index in program.outputs.values())
    assert found.largest <= 1.001 * output.scale * 2.0**output.exponent  # the next level
    assert found.differing == 0 or f"rescaled ({rescale} in the integer program)" in str(found)
    program.save(tmp_path / "program.safetensors")
    loaded = tq.Program.load(tmp_path / "program.safetensors")
    assert loaded.rescale == {rescale} and np.array_equal(loaded.run(IMAGES), program.run(IMAGES))


def test_a_c_file_multiplies_in_fixed_point():
    deployed = tq.convert(trained(methods=METHODS["uniform"]))
    program = tq.to_integer(deployed, IMAGES, rescale="fixed_point")
    assert np.array_equal(compiled(program)(IMAGES), program.run(IMAGES))
    with pytest.raises(tq.QuantizerError, match="rescale must be 'fixed_point' where steps are no powers of two, got"):
        c_source(tq.to_integer(deployed, IMAGES))
    with pytest.raises(tq.QuantizerError, match="rescale must be one of float32, fixed_point, got 'float'; did you"):
        tq.to_integer(deployed, IMAGES, rescale="float")


def test_an_exported_c_file_computes_nearly_what_the_network_does(tmp_path):
    found = tq.export(tq.convert(trained(methods=METHODS["uniform"])), tmp_path / "model.c", IMAGES)
    assert found.differing <= 0.05 * found.elements


@pytest.mark.parametrize("rounding", ["half_even", "half_away"])
def test_a_network_trains_with_the_rule_for_ties_of_its_target(rounding):
    model = trained(rounding=rounding)
    with pytest.warns(UserWarning, match=f"convert: ties are rounded {rounding} in training, and half_up by"):
        deployed = tq.convert(model)
    program = tq.to_integer(deployed, IMAGES, rounding=rounding)
    assert program.rounding == {rounding}
    assert tq.verify(model, program, [IMAGES]).identical
    below_zero = rounding == "half_away"  # differs from half up there alone, where this network has no tie
    assert tq.verify(model, tq.to_integer(deployed, IMAGES), [IMAGES]).identical == below_zero
    assert tq.verify(model, tq.to_integer(deployed, IMAGES).with_rounding(rounding), [IMAGES]).identical
    with pytest.raises(tq.QuantizerError, match="rounding must be one of half_even, half_up, half_away, got 'up'"):
        tq.to_integer(deployed, IMAGES, rounding="up")
    with pytest.raises(tq.QuantizerError, match="rounding must be patterns of names of quantizers, got 'haed'; "):
        tq.to_integer(deployed, IMAGES, rounding={"haed": "half_up"})


def test_the_rule_of_the_framework_needs_no_mention():
    model = trained(rounding="half_up")
    assert tq.verify(model, tq.convert(model), [IMAGES]).identical


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("lowest", [0, -1])
def test_floats_next_to_ties_are_quantized_as_tensorflow_does(bits, lowest):
    low = lowest * 2 ** (bits - 1)
    high, step = low + 2**bits - 1, np.float32(2.0**-5)
    ties = (np.random.default_rng(0).integers(low, high, 5000) + 0.5).astype(np.float32) * step
    x = np.concatenate([ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))])
    expected = tf.quantization.fake_quant_with_min_max_vars(x, low * step, high * step, bits)
    levels = to_integers(x, float(step), low, high, RoundingRule.HALF_UP, from_lowest=True)
    assert np.array_equal(levels * step, expected)


def test_images_next_to_ties_are_quantized_as_in_the_network():
    deployed = tq.convert(trained())
    program = tq.to_integer(deployed, IMAGES)
    (step,) = (each.attributes["step"] for each in program.steps if each.operation == "quantize")
    ties = ((np.floor(IMAGES / step) + 0.5) * step).astype(np.float32)
    assert tq.verify(deployed, program, [np.nextafter(ties, np.float32(-np.inf)), ties]).identical


def test_accumulators_have_the_names_of_layers_and_stay_below_their_worst():
    program = tq.to_integer(tq.convert(trained()), IMAGES)
    sums = program.accumulators(IMAGES)
    names = ["stem", "depthwise", "wide", "up", "global_average_pooling2d", "twice", "twice", "head"]
    assert all(name in each.name for name, each in zip(names, sums, strict=True))
    assert all(1 < each.seen <= each.worst <= 24 for each in sums)


REFUSED = {"recurrent": "in a loop", "masked": "in a loop", "with states": "in a loop"}
IN_FLOAT = {
    "chain": {"softmax"},
    "vision transformer": {"softmax", "square", "mean", "add", "rsqrt", "multiply", "normalize", "reshape"},
    "attention with options": {"softmax", "where", "logical_and", "reshape", "multiply", "add", "subtract"},
    "adapted": {"divide"},
    "MobileNetV2": {"softmax"},
}


@pytest.mark.parametrize(
    "name",
    [*SHOWN, *SPECIAL, *(pytest.param(each, marks=pytest.mark.long) for each in MOBILE_NET)] if KERAS_3 else SHOWN,
)
def test_networks_of_many_kinds_have_programs(name):
    keras.utils.set_random_seed(0)
    build, inputs = (SHOWN | SPECIAL | MOBILE_NET)[name]
    deployed = prepared(build(), inputs)
    if name in REFUSED:
        with pytest.raises(tq.QuantizerError, match=REFUSED[name]):
            tq.to_integer(deployed, inputs)
        return
    program = tq.to_integer(deployed, inputs)
    kinds = {each.rpartition("(")[2].rstrip(")") for each in program.float_operations}
    assert kinds <= IN_FLOAT.get(name, set())
    assert bool(kinds) == (name in IN_FLOAT)
    found = tq.verify(deployed, program, [inputs])
    assert found.identical, str(found)


def cropped(x: Any) -> Any:
    return L.Cropping2D((1, 2))(L.ZeroPadding2D(((1, 0), (0, 2)))(x))


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "a strided convolution in groups": ((7, 6, 4), lambda x: L.Conv2D(6, 3, (2, 1), "same", groups=2)(x)),
    "a dilated convolution": ((7, 6, 4), lambda x: L.Conv2D(6, 3, padding="same", dilation_rate=2)(x)),
    "a depthwise convolution": ((7, 6, 4), lambda x: L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)(x)),
    "a dilated depthwise convolution": ((7, 6, 4), lambda x: L.DepthwiseConv2D(3, dilation_rate=2)(x)),
    "a separable convolution": ((7, 6, 4), lambda x: L.SeparableConv2D(3, 3, activation="gelu")(x)),
    "a convolution of a line": ((9, 4), lambda x: L.Conv1D(6, 3, 2, "causal")(x)),
    "a convolution of a volume": ((4, 5, 3, 2), lambda x: L.Conv3D(3, (3, 2, 1), padding="same")(x)),
    "a transposed convolution": ((5, 4, 4), lambda x: L.Conv2DTranspose(6, 3, 2, "same")(x)),
    "a transposed convolution without padding": ((5, 4, 4), lambda x: L.Conv2DTranspose(3, 3, (2, 3))(x)),
    "a transposed convolution of a line": ((5, 4), lambda x: L.Conv1DTranspose(3, 4, 2, "same")(x)),
    "a dense layer of sequences": ((5, 4), lambda x: L.Dense(3)(x)),
    "an einsum": ((5, 4), lambda x: L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3))(x)),
    "mean of windows": ((7, 7, 4), lambda x: L.AveragePooling2D(3, 2, "same")(L.Conv2D(4, 1)(x))),
    "maximum of windows": ((7, 7, 4), lambda x: L.MaxPooling2D((2, 3), 2, "same")(L.Conv2D(4, 1)(x))),
    "maximum of everything": ((7, 7, 4), lambda x: L.GlobalMaxPooling2D()(L.Conv2D(4, 1)(x))),
    "nearest neighbours": ((3, 5, 4), lambda x: L.UpSampling2D((2, 3))(L.Conv2D(4, 1)(x))),
    "in between": ((3, 5, 4), lambda x: L.UpSampling2D(2, interpolation="bilinear")(L.Conv2D(4, 1)(x))),
    "zeros around, and less": (
        (5, 5, 4),
        lambda x: cropped(L.Conv2D(4, 1)(x)),
    ),
    "axes in another order": ((3, 5, 4), lambda x: L.Permute((3, 1, 2))(L.Conv2D(4, 1)(x))),
    "repeated": ((4,), lambda x: L.RepeatVector(3)(L.Dense(4)(x))),
    "a part": ((5, 5, 4), lambda x: L.Conv2D(4, 1)(x)[:, ::2, 1:, ::-1]),
    "functions": ((6,), lambda x: L.Concatenate()([L.Activation(each)(L.Dense(3)(x)) for each in FUNCTIONS])),
    "ReLU with bounds": ((6,), lambda x: L.ReLU(max_value=1.5)(L.Dense(3)(x))),
    "a leaky ReLU": ((6,), lambda x: L.LeakyReLU(0.1)(L.Dense(3)(x))),
    "sums of many": ((6,), lambda x: L.Average()([L.Dense(3)(x), L.Dense(3)(x), L.Dense(3)(x)])),
    "products": ((5, 5, 4), lambda x: L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)])),
    "products of matrices": ((3, 4), lambda x: L.Dot((2, 2))([L.Dense(4)(x), L.Dense(4)(x)])),
    "the larger of two": ((6,), lambda x: L.Maximum()([L.Dense(3)(x), L.Dense(3)(x)])),
}
FUNCTIONS = ("sigmoid", "tanh", "swish", "gelu", "elu", "selu", "softplus", "softsign", "hard_sigmoid")


@pytest.mark.parametrize("name", LAYERS)
def test_operations_become_integers(name):
    keras.utils.set_random_seed(0)
    shape, build = LAYERS[name]
    given = keras.Input(shape)
    x = np.random.default_rng(0).normal(0, 2, (3, *shape)).astype("float32")
    deployed = prepared(keras.Model(given, build(given)), x)
    program = tq.to_integer(deployed, x)
    assert program.float_operations == []
    found = tq.verify(deployed, program, [x])
    assert found.identical, str(found)
    assert np.array_equal(compiled(program)(x), program.run(x))


def in_integers(x: Any) -> Any:
    return tf.cast(tf.cast(x, tf.int32), tf.float32)


def dense(*more: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), L.Dense(4), *more])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "model", "model must be a converted model, got 'model'"),
        (trained, r"model must be converted, got '.*'; pass convert\(model\)"),
        (
            lambda: prepared(dense(), np.ones((2, 4), np.float32)),
            "one that can be traced with these inputs",
        ),
        (
            lambda: prepared(dense(L.Lambda(tf.sort)), np.ones((2, 4), np.float32)),
            "network must be of operations that integer programs know, got",
        ),
        (
            lambda: prepared(dense(L.Lambda(in_integers)), np.ones((2, 4), np.float32)),
            "operations that integer programs know, got [\"']a cast to int32",
        ),
    ],
)
def test_models_without_a_program_are_refused(model, message):
    x = np.ones((2, 3 if "traced" in message else 4), np.float32)
    with pytest.raises(tq.QuantizerError, match=message):
        tq.to_integer(model(), x)


def test_a_c_file_of_floats_is_refused_and_nothing_is_written(tmp_path):
    x = np.ones((2, 4), np.float32)
    with pytest.raises(
        tq.QuantizerError, match=r"program must be of integers alone, got \['.*softmax.* \(softmax\)'\]"
    ):
        tq.export(prepared(dense(L.Softmax()), x), tmp_path / "model.c", x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bias", "cause"),
    [
        ("accumulator", r"no layer that both models have differs. Possible causes: Ties are rounded half_up.$"),
        ("float", r"Possible causes: .*stem.*: 16 of 16 biases were off the accumulator grid and are rounded. "),
    ],
)
@pytest.mark.parametrize("deploy", [lambda model: model, tq.convert])
def test_verify_names_what_leaves_room_for_other_outputs(bias, cause, deploy):
    model = deploy(trained(bias=bias))
    found = tq.verify(model, lambda x: model(x) + 2.0**-4, [IMAGES])
    assert re.search(cause, str(found))


@pytest.mark.parametrize("deploy", [lambda model: model, tq.convert])
def test_verify_names_the_first_quantizer_where_a_program_differs(deploy):
    model = trained()
    program = tq.to_integer(tq.convert(model), IMAGES[:1])
    same = tq.verify(deploy(model), program, [IMAGES])
    assert same.identical and len(same.layers) == 10
    first, *others = [layer.name for layer in same.layers[1:4]]
    assert re.fullmatch(r"re_lu(_\d+)?_quantized", first) and others == ["depthwise_quantized", "wide_quantized"]
    found = tq.verify(deploy(model), program.with_rounding("half_even"), [IMAGES])
    assert found.first_difference.name == first and found.causes == ("Ties are rounded half_even.",)
    assert "Possible causes: Ties are rounded half_even." in str(found)


def test_verify_names_the_rule_for_ties_that_was_trained():
    model = trained(rounding="half_away")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="convert: ")  # nobody called it
        found = tq.verify(model, lambda x: model(x) + 1, [IMAGES])
    assert found.causes == ("Ties are rounded half_away.",)


def test_verify_names_nothing_of_networks_without_a_program():
    x = np.ones((2, 4), np.float32)
    deployed = prepared(dense(L.Lambda(tf.sort)), x)
    assert tq.verify(deployed, lambda x: deployed(x) + 1, [x]).causes == ()
