"""The effect of each quantizer alone on the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.deploy.sensitivity import measured_sensitivity
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.report.sensitivity import Sensitivity

from trainable_quantizers_keras.calibration.batches import batches_of, run_on
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper


def sensitivity(model: Any, data: Any) -> Sensitivity:
    """Measure, without labels, the error that each quantizer alone causes, with all others bypassed.

    error = Σ(y - y_float)² / Σy_float² over all floating outputs on the data, in evaluation. Give the quantizers at the
    top of the list more bits, and those at the end fewer. The model runs once for each quantizer: one or a few batches
    are enough.

    Args:
        model: A model from ``prepare``; it stays as it is.
        data: Batches as for ``prepare``.

    Raises:
        QuantizerError: no trainable quantizers, no data, or a batch that the model does not take.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> found = sensitivity(prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False), [x])
        >>> len(found.quantizers)  # of two weights, the input, the activation function and the output
        5
    """
    return measured(model, data, "sensitivity")


def measured(
    model: Any, data: Any, owner: str, keep: Callable[[PlacedQuantizer], bool] = lambda each: True
) -> Sensitivity:
    """``sensitivity`` of the quantizers that ``keep`` accepts, for a function ``owner``."""
    placed = quantizers_of(model)
    if not placed:
        advice = "pass what prepare returned; a converted model has none left"
        raise invalid(owner, "model", "one that holds trainable quantizers", getattr(model, "name", model), advice)
    batches = list(batches_of(data, owner))
    layers = model._flatten_layers()
    wrappers = [layer for layer in layers if isinstance(layer, KerasTrainableQuantizationWrapper)]

    def outputs() -> Iterator[np.ndarray]:
        for _, result in run_on(model, batches, owner):
            for value in tf.nest.flatten(result):
                if isinstance(value, tf.Tensor) and value.dtype.is_floating:
                    yield tf.cast(value, tf.float64).numpy()

    return measured_sensitivity(placed, wrappers, outputs, keep)
