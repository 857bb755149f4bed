"""Models and layers whose calls are Python become graphs."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_layers import (
    Around,
    applied,
    with_a_given_mask,
    with_arguments,
    with_constants,
    with_masks,
    with_nothing,
    with_sizes,
    with_structures,
    with_weights,
)
from keras_networks import ROWS, SEQUENCES, Block, outputs
from numpy.testing import assert_allclose
from trainable_quantizers_keras.graph.open import opened
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.layers.opened import KerasOpenedModel

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe.preset("power_of_two_8bit")


OPENED = {
    make.__name__: make
    for make in (
        with_masks,
        with_a_given_mask,
        with_arguments,
        with_structures,
        with_weights,
        with_constants,
        with_nothing,
    )
}
COVERAGE = {"with_masks": 0}  # what goes around in an LSTM is in float


@pytest.mark.parametrize("name", OPENED)
def test_a_layer_is_opened_and_computes_the_same(name):
    model, inputs = OPENED[name]()
    copy = opened(model)
    assert not copy.notes
    assert any(isinstance(layer, KerasOpenedModel) for layer in copy.model.layers)
    for one, two in zip(outputs(model, inputs), outputs(copy.model, inputs), strict=True):
        assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPENED)
def test_an_opened_layer_is_quantized_inside_and_reloads(name, tmp_path):
    model, inputs = OPENED[name]()
    prepared = tq.prepare(model, RECIPE, [tuple(inputs)], verbose=False)
    assert tq.summary(prepared).coverage == COVERAGE.get(name, 1)
    deployed = tq.convert(prepared)
    deployed.save(tmp_path / "model.keras")
    again = tq.keras_load_quantized_model(tmp_path / "model.keras")
    for one, two, three in zip(*(outputs(each, inputs) for each in (prepared, deployed, again)), strict=True):
        assert (one == two).all()
        assert (one == three).all()


def test_a_graph_takes_batches_of_other_sizes():
    model, (steps,) = with_sizes()
    prepared = tq.prepare(model, RECIPE, [steps], verbose=False)
    deployed = tq.convert(prepared)
    for batch in (steps[:1], steps[:, :3], np.concatenate([steps, steps])):
        assert np.abs(outputs(prepared, batch)[0] - outputs(model, batch)[0]).max() < 0.2
        assert (outputs(prepared, batch)[0] == outputs(deployed, batch)[0]).all()


def test_mixed_precision_goes_on_inside():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = applied(Block(8), [ROWS])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    (block,) = [layer for layer in prepared.layers if isinstance(layer, KerasOpenedModel)]
    wrappers = [layer for layer in block.layers if isinstance(layer, tq.KerasTrainableQuantizationWrapper)]
    assert {layer.compute_dtype for layer in wrappers} == {"float16"}
    assert {tf.as_dtype(weight.dtype) for weight in prepared.trainable_variables} == {tf.float32}
    assert_allclose(outputs(prepared, ROWS)[0], outputs(model, ROWS)[0], atol=0.2)


def test_opening_leaves_no_trace_in_the_float_model():
    model = applied(Around(Block(24)), [ROWS])
    before, nodes = outputs(model, [ROWS])[0], [len(layer._inbound_nodes) for layer in model.layers]
    tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert (outputs(model, [ROWS])[0] == before).all()
    assert "call" not in vars(model.layers[1].inner)


def own_function(x):
    return tf.nn.elu(x) * 0.5


def functional():
    rows = keras.Input((24,))
    return keras.Model(rows, L.Dense(3)(L.Dense(4, activation=own_function)(rows)))


def sequential():
    return keras.Sequential([keras.Input((24,)), L.Dense(4, activation=own_function), L.Dense(3)])


def separable():
    layers = [L.Reshape((6, 4)), L.SeparableConv1D(4, 3, activation=own_function), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((24,)), *layers])


@pytest.mark.parametrize("build", [functional, sequential, separable])
def test_an_activation_function_of_ones_own_is_quantized_around(build):
    network = build()
    prepared = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    assert type(prepared) is type(network)
    types = [row.type for row in tq.summary(prepared).rows]
    assert {"elu"} <= {word.lower() for word in types}
    assert tq.summary(prepared).coverage == 1
    assert np.abs(outputs(prepared, [ROWS])[0] - outputs(network, [ROWS])[0]).max() < 0.2


def test_weights_of_convolutional_recurrent_layers_are_quantized():
    frames = keras.Input((2, 6, 6, 3))
    network = keras.Model(frames, L.Flatten()(L.ConvLSTM2D(2, 3, name="video")(frames)))
    video = np.random.default_rng(0).standard_normal((2, 2, 6, 6, 3)).astype("float32")
    prepared = tq.prepare(network, RECIPE, [video], verbose=False)
    found = {parameter.attribute for parameter in quantizers_of(prepared) if parameter.layer == "video"}
    assert found == {"cell.kernel", "cell.recurrent_kernel", "output"}
    assert (outputs(tq.convert(prepared), [video])[0] == outputs(prepared, [video])[0]).all()


def test_a_convolution_with_a_kernel_of_its_own_opens():
    class Standardized(keras.layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
            return super().convolution_op(inputs, (kernel - mean) / tf.sqrt(variance + 1e-10))

    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(Standardized(4, 3)(image)))
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")
    wide = {"num_bits": 16, "method": "symmetric", "calibration": "min_max"}
    model = tq.prepare(network, tq.Recipe(wide, wide), [x], verbose=False)
    np.testing.assert_allclose(model(x), network(x), atol=1e-2)


def test_a_constant_beside_a_result_does_not_keep_a_layer_closed():
    class WithNothing(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(24)

        def call(self, x):
            return self.dense(x), tf.constant([[1.0, 2.0]])

    given = keras.Input((24,))
    hidden, constant = WithNothing()(given)
    network = keras.Model(given, [L.Dense(2)(hidden), constant])
    model = tq.prepare(network, tq.Recipe.preset("power_of_two_8bit"), [ROWS], verbose=False)
    assert tq.summary(model).coverage == 1
    np.testing.assert_array_equal(model(ROWS)[1], [[1.0, 2.0]])
    for one, other in zip(tq.convert(model)(ROWS), model(ROWS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_attention_of_a_sequence_to_itself_is_prepared():
    sequence = keras.Input((5, 8))
    network = keras.Model(sequence, L.Dense(3)(L.Attention()([sequence, sequence])))
    model = tq.prepare(network, tq.Recipe({"num_bits": 16}, {"num_bits": 16}), [SEQUENCES], verbose=False)
    assert_allclose(model(SEQUENCES), network(SEQUENCES), atol=1e-3)
    np.testing.assert_array_equal(tq.convert(model)(SEQUENCES), model(SEQUENCES))
