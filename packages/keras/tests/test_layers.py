"""Every kind of layer trains, and converts to the same outputs."""

import mct_quantizers
import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_builders import DEPTHWISE, L, holder, weights_config, wrapped
from trainable_quantizers_keras.keras_version import KERAS_3, keras


class Scale(L.Layer):
    """A user's own layer, with a weight of its own name."""

    def build(self, input_shape):
        self.factors = self.add_weight(name="factors", shape=(input_shape[-1],), initializer="ones")
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.factors


KINDS = {
    "Dense": (lambda: L.Dense(3), (4,), ("kernel", "bias"), -1),
    "EinsumDense": (lambda: L.EinsumDense("abc,cd->abd", (5, 3), bias_axes="d"), (5, 4), ("kernel",), -1),
    "Conv1D": (lambda: L.Conv1D(3, 2), (6, 4), ("kernel",), 2),
    "Conv2D": (lambda: L.Conv2D(3, 2, activation="relu"), (6, 6, 4), ("kernel",), 3),
    "Conv3D": (lambda: L.Conv3D(3, 2), (4, 4, 4, 2), ("kernel",), 4),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(2, depth_multiplier=2), (6, 6, 3), (DEPTHWISE,), 2),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(2), (6, 3), (DEPTHWISE,), 1),
    "SeparableConv2D": (lambda: L.SeparableConv2D(3, 2), (6, 6, 4), ("depthwise_kernel", "pointwise_kernel"), 2),
    "SeparableConv1D": (lambda: L.SeparableConv1D(3, 2), (6, 4), ("depthwise_kernel", "pointwise_kernel"), 1),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(3, 2), (6, 4), ("kernel",), 1),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 2), (6, 6, 4), ("kernel",), 2),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(3, 2), (3, 3, 3, 2), ("kernel",), 3),
    "Embedding": (lambda: L.Embedding(7, 3), (4,), ("embeddings",), -1),
    "a user's own": (Scale, (4,), ("factors",), 0),
}


def inputs_for(kind, shape, count=8):
    generator = np.random.default_rng(0)
    if kind == "Embedding":
        return generator.integers(0, 7, (count, *shape))
    return generator.normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_trains_and_converts(kind):
    make, shape, attributes, axis = KINDS[kind]
    keras.utils.set_random_seed(0)
    wrapper = wrapped(make(), *attributes, weights_channels_axis=axis, params={"threshold": 0.6})
    dtype = "int32" if kind == "Embedding" else "float32"
    model = keras.Sequential([keras.Input(shape, dtype=dtype), wrapper, L.Flatten(), L.Dense(2)])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    x = inputs_for(kind, shape)
    model.fit(x, np.ones((8, 2)), epochs=3, verbose=0)
    for attribute in attributes:
        quantizer = wrapper.weights_quantizers[attribute]
        (threshold,) = quantizer.get_trainable_variables(tq.VariableGroup.QPARAMS)
        assert not np.all(threshold.numpy() == np.float32(0.6)), f"{attribute} did not train"
    converted = tq.convert(model)
    assert not converted.layers[0].trainable_weights
    np.testing.assert_array_equal(converted.predict(x, verbose=0), model.predict(x, verbose=0))
    np.testing.assert_array_equal(converted(x), model(x))
    quantizers = converted.layers[0].weights_quantizers
    assert all(type(quantizer).__module__.startswith("mct_quantizers") for quantizer in quantizers.values())


def test_quantized_weights_are_what_the_layer_sees():
    wrapper = wrapped(L.Dense(3))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    output = wrapper(x)
    kernel = wrapper.get_quantized_weights()["kernel"]
    np.testing.assert_array_equal(output, tf.matmul(x, kernel) + wrapper.layer.bias)
    assert len(np.unique(kernel)) <= 16


def test_the_layer_keeps_its_own_variable():
    layer = L.Dense(3)
    wrapper = wrapped(layer)
    wrapper(np.ones((2, 4), np.float32))
    names = [weight.name.rpartition("/")[2].partition(":")[0] for weight in layer.trainable_weights]
    assert sorted(names) == ["bias", "kernel"]
    assert any(weight is layer.kernel for weight in layer.weights)
    with pytest.raises(Exception, match=r"[Ii]ncompatible|[Dd]imensions|shape"):
        wrapper(np.ones((2, 9), np.float32))
    assert any(weight is layer.kernel for weight in layer.weights)


@keras.utils.register_keras_serializable(package="tests")
class Subtract(L.Layer):
    def call(self, one, other):
        return one - other


CONSTANTS = {"arguments": (Subtract, {}), **({"a list": (L.Add, {"is_inputs_as_list": True})} if KERAS_3 else {})}


@pytest.mark.parametrize("form", CONSTANTS)
def test_constants_of_a_layer(form):
    make, options = CONSTANTS[form]
    quantizer = tq.STESymmetricWeightsTrainableQuantizer(weights_config(weights_per_channel_threshold=False))
    constant = np.float32([[0.3, -0.3, 5.0]] * 2)
    wrapper = tq.KerasTrainableQuantizationWrapper(make(), {1: quantizer}, {1: constant}, **options)
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_allclose(np.abs(wrapper(x)), [[0.25, 0.25, 0.875]] * 2)
    converted = wrapper.convert_to_inferable_quantizers()
    np.testing.assert_array_equal(converted(x), wrapper(x))


def test_constants_survive_saving(tmp_path):
    quantizer = tq.STESymmetricWeightsTrainableQuantizer(weights_config(weights_per_channel_threshold=False))
    constant = np.float32([[0.3, -0.3, 5.0]])
    wrapper = tq.KerasTrainableQuantizationWrapper(Subtract(), {1: quantizer}, {1: constant})
    model = keras.Sequential([keras.Input((3,)), wrapper])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_custom_loops_and_functions_see_every_gradient():
    model = keras.Sequential([keras.Input((4,)), wrapped(L.Dense(3)), holder(), L.Dense(2)])

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        return tape.gradient(loss, model.trainable_weights)

    found = gradients(tf.random.normal((8, 4), seed=1))
    assert len(found) == 2 + 1 + 2 + 2
    assert all(gradient is not None for gradient in found)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_parameters_stay_float32_and_weights_are_quantized_in_float32(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        wrapper, activation = wrapped(L.Dense(3)), holder()
        output = activation(wrapper(tf.random.normal((8, 4), seed=1)))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert output.dtype.name == policy.removeprefix("mixed_")
    for variable in (*wrapper.weights, *activation.weights):
        assert tf.as_dtype(variable.dtype) in (tf.float32, tf.int32)
    kernel = tf.convert_to_tensor(wrapper.layer.kernel)
    inferable = wrapper.weights_quantizers["kernel"].convert2inferable()
    np.testing.assert_array_equal(wrapper.get_quantized_weights()["kernel"], inferable(kernel))


def test_frozen_parameters_stay_frozen_whatever_happens_to_the_model():
    wrapper = wrapped(L.Dense(3), frozen=True)
    model = keras.Sequential([keras.Input((4,)), wrapper])
    model.trainable = False
    model.trainable = True
    assert len(model.trainable_weights) == 2
    assert not wrapper.weights_quantizers["kernel"].get_trainable_variables(tq.VariableGroup.QPARAMS)


def test_a_disabled_quantizer_is_the_identity():
    wrapper = wrapped(L.Dense(3), enable_weights_quantization=False)
    disabled = holder(enable_activation_quantization=False)
    model = keras.Sequential([keras.Input((4,)), wrapper, disabled, holder()])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(disabled(wrapper(x)), wrapper.layer(x))
    assert len(model.trainable_weights) == 2 + 2
    np.testing.assert_array_equal(tq.convert(model)(x), model(x))


def test_operations_and_several_inputs_and_outputs_convert():
    one, other = keras.Input((4,)), keras.Input((4,))
    shared = wrapped(L.Dense(4))
    mixed = holder()(shared(one) + other * 2.0)
    model = keras.Model([one, other], [mixed, L.Concatenate()([shared(other), mixed])])
    x = [np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32) for seed in (0, 1)]
    for trained, deployed in zip(model(x), tq.convert(model)(x), strict=True):
        np.testing.assert_array_equal(trained, deployed)


def test_distributed_training_keeps_replicas_equal():
    devices = [f"CPU:{index}" for index in range(len(tf.config.list_logical_devices("CPU")))]
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), wrapped(L.Dense(3)), holder(), L.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    history = model.fit(x, x.sum(1), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    np.testing.assert_array_equal(tq.convert(model)(x), model(x))


def test_jit_compiled_training_learns():
    model = keras.Sequential([keras.Input((4,)), wrapped(L.Dense(3)), holder(), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    history = model.fit(x, x.sum(1), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_keras_2_layers_are_those_of_mct_quantizers():
    wrapper = wrapped(L.Dense(3))
    wrapper(np.ones((2, 4), np.float32))
    if KERAS_3:
        assert tq.KerasQuantizationWrapper is not mct_quantizers.KerasQuantizationWrapper
        assert isinstance(wrapper, tq.KerasQuantizationWrapper)
    else:
        assert tq.KerasActivationQuantizationHolder is mct_quantizers.KerasActivationQuantizationHolder
        assert isinstance(wrapper, mct_quantizers.KerasQuantizationWrapper)
        assert type(wrapper.convert_to_inferable_quantizers()) is mct_quantizers.KerasQuantizationWrapper


SETTINGS = {
    "strides": (lambda: L.Conv2D(3, 2), (6, 6, 4), 2, (2, 2)),
    "activation": (lambda: L.Dense(3), (4,), -1, keras.activations.relu),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_attribute_that_is_written_on_a_wrapper_reaches_the_layer(name):
    make, shape, axis, value = SETTINGS[name]
    wrapper, fresh = wrapped(make(), weights_channels_axis=axis), make()
    x = inputs_for("any", shape)
    before = wrapper(x)
    setattr(wrapper, name, value)
    after = wrapper(x)
    fresh(x)
    setattr(fresh, name, value)
    fresh.set_weights([wrapper.kernel, wrapper.bias])
    assert getattr(wrapper.layer, name) == value
    assert after.shape != before.shape or np.abs(after - before).max() > 0
    np.testing.assert_allclose(after, fresh(x), atol=1e-6)


def penalty(model, x):
    """How the square of the gradient of a model's outputs depends on its weights."""
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(x)
            outputs = tf.reduce_sum(model(x) ** 2)
        squares = tf.reduce_sum(inner.gradient(outputs, x) ** 2)
    return outer.gradient(squares, model.trainable_variables)


def tangent(model, x):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        outputs = model(x)
    return accumulator.jvp(outputs)


TWICE = {"double backward": penalty, "compiled": tf.function(penalty), "forward mode": tangent}


@pytest.mark.parametrize("way", TWICE)
@pytest.mark.parametrize("method", ["symmetric", "lut_power_of_two"])
def test_differentiating_a_quantizer_twice_is_an_error(way, method):
    scheme = {"num_bits": 4, "method": method}
    network = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    model = tq.prepare(network, tq.Recipe({"num_bits": 4}, scheme), [inputs_for("any", (4,))], verbose=False)
    error = (tq.QuantizerError, LookupError) if way == "forward mode" else tq.QuantizerError  # of TensorFlow 2.15
    with pytest.raises(error, match=r"differentiate the float model twice instead|no entry for: FakeQuant"):
        TWICE[way](model, tf.ones((2, 4)))


def test_a_converted_layer_of_double_precision_computes_what_the_prepared_does():
    wrapper = wrapped(L.Dense(3, dtype="float64"))
    x = inputs_for("any", (4,)).astype("float64")
    expected = wrapper(x)
    np.testing.assert_allclose(wrapper.convert_to_inferable_quantizers()(x), expected, atol=1e-6)


if KERAS_3:  # Keras 2 has no such scope

    def test_a_layer_that_is_recomputed_has_the_same_gradients():
        def gradients(wrapper):
            wrapper(x)
            wrapper.set_weights(weights) if weights else weights.extend(wrapper.get_weights())
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(wrapper(x) ** 2)
            return tape.gradient(loss, wrapper.trainable_variables)

        x, weights = tf.constant(inputs_for("any", (4,))), []
        expected = gradients(wrapped(L.Dense(3)))
        with keras.RematScope("full"):
            found = gradients(wrapped(L.Dense(3)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
