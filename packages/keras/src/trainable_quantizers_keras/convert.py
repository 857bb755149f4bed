"""From a trained model to the model that is deployed."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.base_quantizer import BaseKerasTrainableQuantizer
from trainable_quantizers_keras.holder import KerasActivationQuantizationHolder
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.wrapper import KerasTrainableQuantizationWrapper


def convert(model: Any) -> Any:
    """A copy of a Sequential or functional model in which every trainable quantizer is an inferable one.

    Its outputs are those of ``model``, bit for bit on CPU. ``model`` itself is left as it is. Nested models
    are converted too, and a shared layer stays shared.

    Raises:
        QuantizerError: the model is subclassed or not built, or nothing in it can be converted.

    Example:
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
    if not _quantized_inside(model):
        advice = "wrap its layers in KerasTrainableQuantizationWrapper, or add activation holders, first"
        raise invalid("convert", "model", "one that holds trainable quantizers", getattr(model, "name", model), advice)
    return _convert(model)


def _convert(model: Any) -> Any:
    kinds = {cls.__name__ for cls in type(model).__mro__}
    if not kinds & {"Sequential", "Functional"}:  # the latter is no public name of either Keras
        advice = "replace its layers by what their convert_to_inferable_quantizers() returns"
        raise invalid("convert", "model", "Sequential or functional", type(model).__name__, advice)
    if not model.built:
        raise invalid("convert", "model", "built", model.name, "call it on a batch first")
    converted = keras.models.clone_model(model, clone_function=_convert_layer)
    if not converted.built:  # a Sequential that was built by its first batch
        converted.build(model.input_shape)
    return converted


def _convert_layer(layer: Any) -> Any:
    """A layer of its own with the same outputs, built and with the same weights."""
    if isinstance(layer, keras.Model):
        return _convert(layer)
    if isinstance(layer, KerasTrainableQuantizationWrapper):
        return layer.convert_to_inferable_quantizers()
    if _is_trainable(layer):
        quantizer = layer.activation_holder_quantizer
        if not getattr(quantizer, "enabled", True):
            return keras.layers.Activation("linear", name=layer.name)
        return KerasActivationQuantizationHolder(quantizer.convert2inferable(), name=layer.name)
    inside = _quantized_inside(layer)
    if inside:
        advice = "take it out of that layer: models alone may hold quantized layers"
        raise invalid(
            "convert", "layer", "free of quantized layers inside it", layer.name, advice, f" with {inside[0]}"
        )
    copied = type(layer).from_config(layer.get_config())
    if getattr(layer, "weights", None):  # Keras 3 knows operations that are no layers
        copied.build_from_config(layer.get_build_config())
        copied.built = True
        copied.set_weights(layer.get_weights())
    return copied


def _is_trainable(layer: Any) -> bool:
    holds = isinstance(layer, KerasActivationQuantizationHolder)
    held = layer.activation_holder_quantizer if holds else None
    return isinstance(layer, KerasTrainableQuantizationWrapper) or isinstance(held, BaseKerasTrainableQuantizer)


def _quantized_inside(layer: Any) -> list[str]:
    """The names of the trainable wrappers and holders at any depth inside a layer or model."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    return [inner.name for inner in layer._flatten_layers(include_self=False) if _is_trainable(inner)]
