"""Mistakes are explained where they are made."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_builders import L, activation_config, holder, weights_config, wrapped
from trainable_quantizers_keras.keras_version import KERAS_3, keras

WRAPPER = tq.KerasTrainableQuantizationWrapper
X = np.ones((2, 4), np.float32)


def quantizer():
    return tq.LSQSymmetricWeightsTrainableQuantizer(weights_config())


if not KERAS_3:  # Keras 3 has no such thing

    def test_losses_that_hang_on_a_graph_are_refused():
        rows = keras.Input((4,))
        hidden = L.Dense(4)(rows)
        model = keras.Model(rows, L.Dense(2)(hidden))
        model.add_loss(tf.reduce_mean(hidden**2))
        with pytest.raises(tq.QuantizerError, match=r"loss must be part of a layer, got 'model.add_loss\(tensor\)'"):
            tq.prepare(model, tq.Recipe({}), verbose=False)


def shared_quantizer():
    one = quantizer()
    for _ in range(2):
        WRAPPER(L.Dense(3), {"kernel": one})(X)


MISTAKES = [
    (lambda: wrapped(L.Dense(3), "kernal")(X), "the name of a weight that the layer holds, got 'kernal'; did you mean"),
    (lambda: wrapped(L.ReLU())(X), "got 'kernel'; known: none"),
    (
        lambda: wrapped(L.Dense(3), params={"threshold": [1.0, 2.0]})(X),
        "a scalar, or of shape (3,) or (1, 3), got (2,)",
    ),
    (lambda: wrapped(L.Dense(3), weights_channels_axis=2)(X), "weights_channels_axis must be in -2..1, got 2"),
    (lambda: WRAPPER("Dense", {}), "layer must be a layer of"),
    (lambda: WRAPPER(L.Dense, {}), "layer must be a layer of"),
    (lambda: WRAPPER(L.Dense(3), quantizer()), "weights_quantizers must be a dictionary"),
    (lambda: WRAPPER(L.Dense(3), {"kernel": "LSQ"}), "quantizer of 'kernel' must be a quantizer, got 'LSQ'"),
    (lambda: WRAPPER(L.Dense(3), {0: quantizer()}), "weights_quantizers key must be the name of a weight, got 0"),
    (lambda: WRAPPER(L.Add(), {1: quantizer()}, {0: X}), "weights_quantizers must be at positions [0], got [1]"),
    (lambda: wrapped(L.Dense(3)).convert_to_inferable_quantizers(), "wrapper must be built"),
    (lambda: quantizer().convert2inferable(), "initialize_quantization creates the variables"),
    (
        lambda: holder().activation_holder_quantizer(tf.constant([1, 2])),
        "inputs must be a floating tensor, got 'int32'",
    ),
    (lambda: tq.convert(keras.Sequential([L.Dense(3)])), "model must be one that holds trainable quantizers"),
    (lambda: tq.convert(keras.Sequential([wrapped(L.Dense(3))])), "model must be built"),
    (
        lambda: wrapped(L.LSTM(3))(np.ones((2, 5, 4), np.float32)),
        "its weights belong to layers inside it: name them like cell.kernel",
    ),
    (
        lambda: tq.convert(keras.Sequential([keras.Input((5, 4)), L.TimeDistributed(wrapped(L.Dense(3)))])),
        "layer must be free of quantized layers inside it, got 'time_distributed",
    ),
    (shared_quantizer, "quantizer must be of one layer"),
]


@pytest.mark.parametrize(("action", "text"), MISTAKES, ids=lambda part: part[:50] if isinstance(part, str) else "")
def test_mistakes_are_explained(action, text):
    with pytest.raises(tq.QuantizerError) as error:
        action()
    assert text in str(error.value)


if KERAS_3:  # the holder of Keras 2 is that of mct-quantizers

    def test_a_holder_wants_a_quantizer():
        with pytest.raises(tq.QuantizerError, match="activation_holder_quantizer must be a quantizer, got 'LSQ'"):
            tq.KerasActivationQuantizationHolder("LSQ")


def test_activation_configs_do_not_fit_weights():
    with pytest.raises(tq.QuantizerError, match="quantization_config must be a TrainableQuantizerWeightsConfig"):
        tq.LSQUniformWeightsTrainableQuantizer(activation_config())


if KERAS_3:  # Keras 2 has one backend

    def test_another_backend_of_keras_is_refused():
        code = "import trainable_quantizers_keras"
        environment = {**os.environ, "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode
        assert "the backend of Keras must be tensorflow, got 'torch'; set KERAS_BACKEND=tensorflow" in done.stderr

    def test_keras_does_not_quantize_what_has_quantizers():
        network = keras.Sequential([keras.Input((4,)), L.Dense(3)])
        model = tq.prepare(network, tq.Recipe({"num_bits": 4}), verbose=False)
        for each in (model, tq.convert(model)):
            before = each(X).numpy()
            with pytest.raises(tq.QuantizerError, match="quantize: layer must be one that nothing quantizes"):
                each.quantize("int8")
            assert np.array_equal(each(X), before)

    def test_a_weight_that_is_computed_from_others_is_refused():
        layer = L.Dense(3)
        layer.build((None, 4))
        layer.enable_lora(2)
        with pytest.raises(tq.QuantizerError, match=r"it computes this one from others \(LoRA\?\): merge them first"):
            wrapped(layer)(X)
