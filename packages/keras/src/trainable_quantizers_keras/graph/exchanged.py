"""Detects layers that were added to a model after ``prepare`` and that nothing quantizes."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.holder import KerasActivationQuantizationHolder
from trainable_quantizers_keras.layers.wrapper import KerasQuantizationWrapper

_HELD = "_held_by_prepare"
_ADVICE = (
    "put it into the float model and prepare that (a rule with skip = true leaves a layer in float), or wrap it in "
    "KerasTrainableQuantizationWrapper"
)


def hold(model: Any) -> None:
    """Remember which layers a prepared model holds."""
    for layer in model._flatten_layers():
        vars(layer)[_HELD] = True


def check_held(model: Any, owner: str) -> None:
    """Refuse a prepared model in which a layer with weights was added or replaced.

    Models of the user's own wrappers, and copies by Keras, keep no record, and are not checked.

    Raises:
        QuantizerError: it names the layer.
    """
    layers: list[Any] = list(model._flatten_layers())
    kinds = (KerasQuantizationWrapper, KerasActivationQuantizationHolder)
    quantizing = [layer for layer in layers if isinstance(layer, kinds)]
    if not any(_HELD in vars(layer) for layer in quantizing):
        return
    known = {id(layer) for each in quantizing for layer in each._flatten_layers()}
    for layer in layers:
        if _HELD in vars(layer) or id(layer) in known or isinstance(layer, (keras.Model, keras.metrics.Metric)):
            continue
        if layer.weights:
            rule = "one of those that prepare was given"
            raise invalid(owner, f"layer {layer.name!r}", rule, type(layer).__name__, _ADVICE)
