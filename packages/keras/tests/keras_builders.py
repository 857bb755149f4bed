"""Configurations, quantizers and a network for the tests, in few words."""

from __future__ import annotations

from typing import Any

import numpy as np
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import KERAS_3, keras

Method = tq.QuantizationMethod
L = keras.layers
DEPTHWISE = "kernel" if KERAS_3 else "depthwise_kernel"
"""What DepthwiseConv calls its weight."""


def weights_config(params: dict | None = None, **changes: Any) -> tq.TrainableQuantizerWeightsConfig:
    fields: dict[str, Any] = {
        "weights_quantization_method": Method.SYMMETRIC,
        "weights_n_bits": 4,
        "weights_quantization_params": params or {tq.THRESHOLD: 1.0},
        "enable_weights_quantization": True,
        "weights_channels_axis": -1,
        "weights_per_channel_threshold": True,
        "min_threshold": tq.MIN_THRESHOLD,
    }
    return tq.TrainableQuantizerWeightsConfig(**{**fields, **changes})


def activation_config(params: dict | None = None, **changes: Any) -> tq.TrainableQuantizerActivationConfig:
    fields: dict[str, Any] = {
        "activation_quantization_method": Method.UNIFORM,
        "activation_n_bits": 4,
        "activation_quantization_params": params or {tq.RANGE_MIN: -1.0, tq.RANGE_MAX: 2.0},
        "enable_activation_quantization": True,
        "min_threshold": tq.MIN_THRESHOLD,
    }
    return tq.TrainableQuantizerActivationConfig(**{**fields, **changes})


def wrapped(layer: Any, *attributes: str, frozen: bool = False, **changes: Any) -> tq.KerasTrainableQuantizationWrapper:
    quantizers = {
        attribute: tq.LSQSymmetricWeightsTrainableQuantizer(weights_config(**changes), freeze_quant_params=frozen)
        for attribute in attributes or ("kernel",)
    }
    return tq.KerasTrainableQuantizationWrapper(layer, quantizers)


def holder(params: dict | None = None, **changes: Any) -> tq.KerasActivationQuantizationHolder:
    quantizer = tq.LSQUniformActivationTrainableQuantizer(activation_config(params, **changes))
    return tq.KerasActivationQuantizationHolder(quantizer)


def network(seed: int = 0) -> Any:
    """Functional: a shared layer, a nested Sequential with batch normalization, frozen parameters, candidates."""
    keras.utils.set_random_seed(seed)
    candidates = [tq.TrainableQuantizerCandidateConfig(2, {tq.THRESHOLD: 0.5})]
    inputs = keras.Input((6, 6, 2))
    shared = wrapped(L.Conv2D(2, 3, padding="same"), weights_quantization_candidates=candidates)
    x = holder()(L.ReLU()(shared(inputs)))
    x = holder()(shared(x))
    x = wrapped(L.DepthwiseConv2D(3), DEPTHWISE, weights_channels_axis=2)(x)
    x = wrapped(L.Conv2DTranspose(3, 2), weights_channels_axis=2, frozen=True)(x)
    nested = [keras.Input((5, 5, 3)), L.BatchNormalization(), wrapped(L.Conv2D(4, 2)), holder()]
    x = keras.Sequential(nested, name="nested")(x)
    return keras.Model(inputs, wrapped(L.Dense(5))(L.Flatten()(x)))


def images(seed: int = 0, count: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 2)).astype(np.float32)


LABELS = np.arange(16) % 5


def train(model: Any, epochs: int = 2, compile: bool = True, **options: Any) -> list[float]:
    """Losses of a few epochs of ``fit`` on fixed data."""
    if compile:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, **options)
    history = model.fit(images(), LABELS, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]
