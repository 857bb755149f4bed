"""What was trained survives saving, and training goes on from it with equal losses."""

import mct_quantizers
import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_builders import L, holder, images, network, train, weights_config
from mct_quantizers import mark_quantizer
from trainable_quantizers_keras.keras_version import KERAS_3, keras

FORMATS = [".keras"] if KERAS_3 else [".keras", ".h5", ""]
LOADERS = {"plain": keras.models.load_model, "ours": tq.keras_load_quantized_model}


def quantizers(model):
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += quantizers(layer)
        found += getattr(layer, "weights_quantizers", {}).values()
        found += [layer.activation_holder_quantizer] if hasattr(layer, "activation_holder_quantizer") else []
    return found


@pytest.fixture(scope="module")
def trained():
    model = network()
    train(model)
    return model


@pytest.mark.parametrize("suffix", FORMATS, ids=lambda suffix: suffix or "SavedModel")
def test_a_trained_model_reloads_by_each_loader_and_trains_on(tmp_path, suffix):
    model = network()
    train(model)
    path = f"{tmp_path}/model{suffix}"
    model.save(path)
    expected = model.predict(images(1), verbose=0)
    loaded = {name: load(path) for name, load in LOADERS.items()}
    for name, again in loaded.items():
        np.testing.assert_array_equal(again.predict(images(1), verbose=0), expected, name)
        for one, other in zip(quantizers(model), quantizers(again), strict=True):
            assert type(one) is type(other), name
            assert one.quantization_config == other.quantization_config, name
            assert one.freeze_quant_params == other.freeze_quant_params, name
            for each in one.quantizer_parameters:
                np.testing.assert_array_equal(one.get_quantizer_variable(each), other.get_quantizer_variable(each))
        assert len(again.trainable_weights) == len(model.trainable_weights), name
    losses = {name: train(again, compile=False) for name, again in loaded.items()}
    assert losses["plain"] == losses["ours"]
    if suffix:  # a SavedModel keeps no shuffle-free optimizer state in Keras 2
        assert losses["ours"] == train(model, compile=False)


def test_weights_file_reloads(tmp_path, trained):
    path = f"{tmp_path}/model.weights.h5"
    trained.save_weights(path)
    fresh = network(1)
    fresh.load_weights(path)
    np.testing.assert_array_equal(fresh.predict(images(1), verbose=0), trained.predict(images(1), verbose=0))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_converted_model_reloads(tmp_path, trained, loader):
    converted = tq.convert(trained)
    path = f"{tmp_path}/model.keras"
    converted.save(path)
    loaded = LOADERS[loader](path, compile=False)
    expected = trained.predict(images(1), verbose=0)
    np.testing.assert_array_equal(loaded.predict(images(1), verbose=0), expected)
    held = quantizers(loaded)
    assert held
    assert all(type(quantizer).__module__.startswith("mct_quantizers") for quantizer in held)
    assert len(loaded.trainable_weights) == len(converted.trainable_weights)


if not KERAS_3:  # the loader of mct-quantizers works on Keras 2 alone

    def test_a_converted_model_needs_mct_quantizers_alone(tmp_path, trained):
        path = f"{tmp_path}/model.keras"
        tq.convert(trained).save(path)
        loaded = mct_quantizers.keras_load_quantized_model(path, compile=False)
        np.testing.assert_array_equal(loaded.predict(images(1), verbose=0), trained.predict(images(1), verbose=0))


@pytest.mark.parametrize("deployed", [False, True])
def test_export_serves_the_same_outputs(tmp_path, trained, deployed):
    model = tq.convert(trained) if deployed else trained
    model.export(f"{tmp_path}/model")
    served = tf.saved_model.load(f"{tmp_path}/model")
    np.testing.assert_array_equal(served.serve(tf.constant(images(1))), trained.predict(images(1), verbose=0))


def test_clones_start_from_the_configuration(trained):
    clone = keras.models.clone_model(trained)
    clone.set_weights(trained.get_weights())
    np.testing.assert_array_equal(clone.predict(images(1), verbose=0), trained.predict(images(1), verbose=0))


@mark_quantizer(
    quantization_target=tq.QuantizationTarget.Weights,
    quantization_method=[tq.QuantizationMethod.SYMMETRIC],
    identifier="scaled sign",
)
class ScaledSign(tq.BaseKerasTrainableQuantizer):
    """Written against the documented API, registered by nobody."""

    def __init__(self, quantization_config: tq.TrainableQuantizerWeightsConfig, gain: float = 1.0):
        super().__init__(quantization_config)
        self.gain = gain

    def initialize_quantization(self, tensor_shape, name, layer):
        scale = layer.add_weight(f"{name}/scale", shape=(1,), initializer="ones", trainable=True)
        self.add_quantizer_variable("scale", scale, tq.VariableGroup.QPARAMS)

    def __call__(self, inputs, training):
        straight_through = inputs + tf.stop_gradient(tf.sign(inputs) - inputs)
        return self.gain * tf.convert_to_tensor(self.get_quantizer_variable("scale")) * straight_through


def test_a_third_partys_quantizer_trains_and_reloads(tmp_path):
    quantizer = ScaledSign(weights_config(), gain=0.5)
    wrapper = tq.KerasTrainableQuantizationWrapper(L.Dense(3), {"kernel": quantizer})
    model = keras.Sequential([keras.Input((4,)), wrapper, holder()])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model.fit(x, np.ones((8, 3)), verbose=0)
    (scale,) = quantizer.get_trainable_variables(tq.VariableGroup.QPARAMS)
    assert scale.numpy() != 1.0
    path = f"{tmp_path}/model.keras"
    model.save(path)
    loaded = tq.keras_load_quantized_model(path)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.layers[0].weights_quantizers["kernel"].gain == 0.5
    found = tq.get_trainable_quantizer_class(
        tq.QuantizationTarget.Weights, "scaled sign", tq.QuantizationMethod.SYMMETRIC, tq.BaseKerasTrainableQuantizer
    )
    assert found is ScaledSign


if KERAS_3:

    def test_options_are_for_keras_2():
        with pytest.raises(tq.QuantizerError, match="options must be None on Keras 3"):
            tq.keras_load_quantized_model("model.keras", options=tf.saved_model.LoadOptions())
