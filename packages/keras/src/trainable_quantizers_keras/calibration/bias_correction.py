"""Bias correction: runs the float and the quantized model side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.calibration.bias_correction import BiasCorrection

from trainable_quantizers_keras.calibration.batches import run_on


def correct_biases(reference: Any, model: Any, layers: Sequence[tuple[Any, Any, Any]], batches: Any) -> None:
    """Shift the biases of a quantized model, in place.

    Args:
        reference: The float model.
        model: The same model with its quantizers.
        layers: Layers of the float model whose biases are corrected, the same layers of the quantized one, and the
            norms that these are wrapped with, or None.
        batches: Data.
    """
    corrections = [(before, layer, norm, BiasCorrection()) for before, layer, norm in layers]
    told: _Told = {id(before): (before, each.expect) for before, _, _, each in corrections}
    told |= {id(layer): (layer, each.shift) for _, layer, _, each in corrections}
    with _told(told):
        for given, _ in run_on(reference, batches, "prepare", "calibration_data"):
            model(given, training=False)
    for _, layer, norm, correction in corrections:
        if norm is None:
            layer.bias.assign_add(tf.cast(correction.mean_shift, layer.bias.dtype))
        else:
            norm.shift(correction.mean_shift)


_Told = dict[int, tuple[Any, Callable[[np.ndarray], Any]]]  # layers and what they tell, by identity


@contextmanager
def _told(layers: _Told) -> Iterator[None]:
    """Let layers report the mean of each channel before their activation function, and add the returned shift."""
    activations = {identity: layer.activation for identity, (layer, _) in layers.items()}
    for layer, tell in layers.values():
        layer.__dict__["activation"] = _telling(layer, tell)  # past the tracking of attributes
    try:
        yield
    finally:
        for identity, (layer, _) in layers.items():
            layer.__dict__["activation"] = activations[identity]


def _telling(layer: Any, tell: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Any], Any]:
    activation = layer.activation
    first = getattr(layer, "data_format", "channels_last") == "channels_first"

    def told(x: Any) -> Any:
        axis = 1 if first else len(x.shape) - 1
        axes = [each for each in range(len(x.shape)) if each != axis]
        shift = tell(tf.reduce_mean(tf.cast(x, tf.float64), axes).numpy())
        if shift is not None:
            x += tf.cast(tf.reshape(shift, [-1] + [1] * (len(x.shape) - 1 - axis)), x.dtype)
        return activation(x)

    return told
