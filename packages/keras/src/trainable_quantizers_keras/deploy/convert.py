"""Converts a trained model to the one that is deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mct_quantizers
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.graph.exchanged import check_held
from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.activity import KerasActivityRegularization
from trainable_quantizers_keras.layers.calls import is_graph
from trainable_quantizers_keras.layers.copies import copied, is_of_keras
from trainable_quantizers_keras.layers.holder import (
    KerasActivationQuantizationHolder,
    KerasMaskedActivationQuantizationHolder,
    KerasTrainableActivationQuantizationHolder,
)
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.wrapper import KerasQuantizationWrapper, KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


def convert(model: Any) -> Any:
    """Convert a model for deployment: a copy with inferable quantizers of mct-quantizers in place of trainable ones.

    Its outputs are those of ``model``, bit for bit on CPU. ``model`` itself stays as it is. Nested models
    are converted too, and a shared layer stays shared.

    Args:
        model: A model from ``prepare``, or any built model that holds trainable wrappers and holders.

    Raises:
        QuantizerError: the model is not built, nothing in it can be converted, a layer cannot be rebuilt from its
            configuration, is one of Keras and holds quantized layers without being a model, or has weights and was put
            in after ``prepare``.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import *
        >>> config = TrainableQuantizerActivationConfig(
        ...     QuantizationMethod.UNIFORM, 8, {RANGE_MIN: -1.0, RANGE_MAX: 1.0}, True, MIN_THRESHOLD)
        >>> holder = KerasActivationQuantizationHolder(LSQUniformActivationTrainableQuantizer(config))
        >>> model = keras.Sequential([keras.Input((5,)), holder])
        >>> x = np.random.randn(20, 5).astype("float32")
        >>> bool((convert(model)(x) == model(x)).numpy().all())
        True
    """
    if not quantized_inside(model):
        advice = "prepare it, or wrap its layers in KerasTrainableQuantizationWrapper, first"
        raise invalid("convert", "model", "one that holds trainable quantizers", getattr(model, "name", model), advice)
    check_held(model, "convert")
    converted = copied(model, _converted)
    refuse_configuration(converted)
    return converted


def _converted(layer: Any, call: Any) -> Any:
    """The replacement of a layer in the converted model."""
    if isinstance(layer, KerasQuantizedOutput):
        inner, holder = (copied(part, _converted) for part in (layer.layer, layer.holder))
        return KerasQuantizedOutput(inner, holder, name=layer.name)
    if isinstance(layer, keras.Model):
        if not layer.built:
            raise invalid("convert", "model", "built", layer.name, "call it on a batch first")
        return layer
    if isinstance(layer, KerasTrainableQuantizationWrapper):
        return layer.convert_to_inferable_quantizers(call is not None)
    if _is_trainable(layer):
        quantizer = layer.activation_holder_quantizer
        if not getattr(quantizer, "enabled", True):
            return keras.layers.Activation("linear", name=layer.name)
        inferable = quantizer.convert2inferable()
        kind = KerasActivationQuantizationHolder
        if isinstance(layer, KerasMaskedActivationQuantizationHolder):
            kind = KerasMaskedActivationQuantizationHolder
        return kind(inferable, name=layer.name, dtype="float32")  # it takes nothing else
    if isinstance(layer, KerasActivityRegularization) and call is not None:
        return None  # nothing of it trains
    inside = quantized_inside(layer) if is_of_keras(layer) else []
    if inside:
        advice = "take it out of that layer, which its configuration would rebuild without it"
        raise invalid(
            "convert", "layer", "free of quantized layers inside it", layer.name, advice, f" with {inside[0]}"
        )
    return layer


class _NoConfigurationError(QuantizerError, NotImplementedError):
    """The latter is what SavedModels of Keras 2 expect of a model without a configuration."""


def refuse_configuration(model: Any) -> None:
    """Keep Keras from rebuilding the user's layers and models without the quantizers that they hold."""

    def refused(name: str) -> Callable[[], Any]:
        def get_config() -> Any:
            advice = "save its weights and load them into what prepare makes again, or export it"
            raise _NoConfigurationError(
                str(invalid("get_config", "model", "one that Keras rebuilds with its quantizers", name, advice))
            )

        return get_config

    for layer in model._flatten_layers():
        if not (is_of_keras(layer) or is_graph(layer)) and any(map(quantizes, layer._flatten_layers())):
            vars(layer)["get_config"] = refused(layer.name)


def quantizes(layer: Any) -> bool:
    """Whether it is a wrapper or a holder, or a layer that Keras itself has quantized."""
    kinds = (mct_quantizers.KerasQuantizationWrapper, KerasQuantizationWrapper, KerasActivationQuantizationHolder)
    mode = getattr(getattr(layer, "dtype_policy", None), "quantization_mode", None)
    return isinstance(layer, kinds) or mode is not None


def needs_package(model: Any) -> bool:
    """Whether the converted model holds classes of this package: always in Keras 3, which mct-quantizers lacks."""
    if KERAS_3 or not is_graph(model):
        return True

    def is_ours(layer: Any) -> bool:
        kind = type(layer)
        if kind is KerasTrainableQuantizationWrapper:
            kind = layer.inferable_class(in_graph=True)
        elif kind is KerasTrainableActivationQuantizationHolder:
            kind = KerasActivationQuantizationHolder
        elif kind is KerasActivityRegularization:
            return False
        return kind.__module__.startswith(__package__.partition(".")[0])

    return any(map(is_ours, model._flatten_layers()))


def _is_trainable(layer: Any) -> bool:
    holds = isinstance(layer, KerasActivationQuantizationHolder)
    held = layer.activation_holder_quantizer if holds else None
    return isinstance(layer, KerasTrainableQuantizationWrapper) or isinstance(held, BaseKerasTrainableQuantizer)


def quantized_inside(layer: Any) -> list[str]:
    """The names of the trainable wrappers and holders at any depth inside a layer or model."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    return [inner.name for inner in layer._flatten_layers(include_self=False) if _is_trainable(inner)]
