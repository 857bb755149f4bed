"""Splits Keras layers that do two things into two layers, so that the value between them is quantized too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trainable_quantizers_keras.graph.kinds import clips_by, follows_keras, kind_of
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.activity import regularized
from trainable_quantizers_keras.layers.copies import build_like, copied, remember_shape
from trainable_quantizers_keras.layers.function import functions_on_symbols
from trainable_quantizers_keras.layers.sizes import sizes_as_symbols

_ACTIVATED = ("conv", "depthwise_conv", "conv_transpose", "linear")


def first_part(layer: Any) -> Any:
    """The convolution or dense layer without its second part; None if a layer has only one part.

    Examples:
        >>> layer = keras.layers.Dense(2, activation="tanh", name="head")
        >>> symbol = layer(keras.Input((3,)))
        >>> first_part(layer).activation.__name__, second_part(layer).name
        ('linear', 'head_tanh')
    """
    if not getattr(layer, "built", False) or not follows_keras(layer):
        return None
    if type(layer).__name__.startswith("SeparableConv") and layer.padding != "causal":
        return _depthwise(layer)
    return _linear(layer) if is_activated(layer) else None


def second_part(layer: Any) -> Callable[[Any], Any]:
    """The second part of a layer, applied to the result of ``first_part``."""
    if type(layer).__name__.startswith("SeparableConv"):
        pointwise = _pointwise(layer)
        return partial(_in_two, pointwise) if is_activated(pointwise) else pointwise  # type: ignore[no-any-return]
    activation = _activation(layer)
    return partial(_and_regularized, layer, activation) if layer.activity_regularizer else activation


def _activation(layer: Any) -> Callable[[Any], Any]:
    """The activation function of a layer, as a layer for its result."""
    activation = layer.activation
    if isinstance(activation, keras.layers.Layer):
        return copied(activation)  # type: ignore[no-any-return]
    name = getattr(activation, "__name__", "")
    if getattr(keras.activations, name, None) is not activation:
        return partial(_on_symbols, activation)
    return keras.layers.Activation(activation, name=f"{layer.name}_{name}", dtype=layer.dtype_policy)  # type: ignore[no-any-return]


def names_of_last_part(layer: Any) -> tuple[str, ...]:
    """The names that the layer which gives the result may have once there are two, the last of them first.

    Examples:
        >>> names_of_last_part(keras.layers.Dense(2, activation="tanh", name="head"))
        ('head_tanh',)
    """
    names = [f"{layer.name}_pointwise"] if type(layer).__name__.startswith("SeparableConv") else []
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return tuple(f"{name}_{activation}" for name in (names or [layer.name])) + tuple(names)


def _in_two(layer: Any, symbol: Any) -> Any:
    return second_part(layer)(first_part(layer)(symbol))


def _and_regularized(layer: Any, activation: Callable[[Any], Any], symbol: Any) -> Any:
    return regularized(layer, activation(symbol))


def _on_symbols(function: Callable[[Any], Any], symbol: Any) -> Any:
    """Call the user's function on symbols: the functions that it calls become operations."""
    with functions_on_symbols(), sizes_as_symbols():
        return function(symbol)


def is_activated(layer: Any) -> bool:
    """Whether a convolution or dense layer has an activation function that ``second_part`` takes out of it."""
    activation = getattr(layer, "activation", None)
    named = activation is not None and getattr(activation, "__name__", "") != "linear"
    return named and kind_of(layer) in _ACTIVATED and not clips_by(activation)


def _linear(layer: Any) -> Any:
    plain = type(layer).from_config({**layer.get_config(), "activation": None, "activity_regularizer": None})
    build_like(layer, plain)
    plain.set_weights(layer.get_weights())
    return plain


def _depthwise(layer: Any) -> Any:
    kept = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier")
    config = layer.get_config()
    options = {name: config[name] for name in kept}
    options["strides"] = options["strides"][0] if len(set(options["strides"])) == 1 else options["strides"]
    kind = getattr(keras.layers, type(layer).__name__.replace("Separable", "Depthwise"))
    depthwise = kind(
        **options,
        use_bias=False,
        depthwise_regularizer=config["depthwise_regularizer"],
        depthwise_constraint=config["depthwise_constraint"],
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
    build_like(layer, depthwise)
    depthwise.set_weights([_array(layer.depthwise_kernel)])
    return depthwise


def _pointwise(layer: Any) -> Any:
    config = layer.get_config()
    kept = ("filters", "data_format", "use_bias", "bias_regularizer", "bias_constraint")
    kind = getattr(keras.layers, type(layer).__name__.replace("Separable", ""))
    pointwise = kind(
        **{name: config[name] for name in kept},
        kernel_size=1,
        activation=layer.activation,
        activity_regularizer=layer.activity_regularizer,
        kernel_regularizer=config["pointwise_regularizer"],
        kernel_constraint=config["pointwise_constraint"],
        name=f"{layer.name}_pointwise",
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
    kernel = _array(layer.pointwise_kernel)
    channels, last = kernel.shape[-2], config["data_format"] == "channels_last"
    unknown = [None] * (kernel.ndim - 2)
    shape = (None, *unknown, channels) if last else (None, channels, *unknown)
    pointwise.build(shape)
    remember_shape(pointwise, shape)
    pointwise.set_weights([kernel] + ([_array(layer.bias)] if layer.use_bias else []))
    return pointwise


def _array(weight: Any) -> Any:
    return weight.numpy()
