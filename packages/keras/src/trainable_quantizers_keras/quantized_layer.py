"""Running a Keras layer with quantized weights in the place of its own, on Keras 2 and Keras 3 alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from mct_quantizers.common.constants import POSITIONAL_WEIGHT
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid, nearest

from trainable_quantizers_keras.keras_version import full_precision, keras


class QuantizedLayer:
    """What a wrapper of a layer does with its quantizers; mixed into ``keras.layers.Wrapper``.

    The weights stay variables of the wrapped layer. A call puts their quantized values into the slots where
    the layer keeps them, below properties and without Keras taking notice, and takes them out again.
    """

    layer: Any
    weights_quantizers: dict[Any, Any]
    weight_values: dict[int, Any]
    op_call_args: list[Any]
    op_call_kwargs: dict[str, Any]
    is_inputs_as_list: bool

    def _set_weights_vars(self, is_training: bool = True) -> None:
        """Create the quantizers' variables, and those of constants; ``build`` calls it once the layer is built."""
        self._slots = {key: slot_of(self.layer, key) for key in self.weights_quantizers if isinstance(key, str)}
        for key, quantizer in self.weights_quantizers.items():
            name = key if isinstance(key, str) else f"{POSITIONAL_WEIGHT}_{key}"
            if not isinstance(key, str):
                value = self.weight_values[key]
                initializer = keras.initializers.Constant(value)
                weight = self.add_weight(name=name, shape=value.shape, initializer=initializer, trainable=False)  # type: ignore[attr-defined]
                setattr(self, name, weight)
            quantizer.initialize_quantization(tuple(self._weight(key).shape), name, self)

    def _weight(self, key: str | int) -> Any:
        return (
            getattr(self, f"{POSITIONAL_WEIGHT}_{key}") if isinstance(key, int) else vars(self.layer)[self._slots[key]]
        )

    def get_weights_vars(self) -> list[tuple[Any, Any, Any]]:
        """(key, weight, quantizer) of each quantized weight."""
        return [(key, self._weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def get_quantized_weights(self, training: Any = False) -> dict[Any, tf.Tensor]:
        """The quantized weights by key, as the next call uses them."""
        return {
            key: quantizer(full_precision(weight), training)
            if isinstance(quantizer, BaseTrainableQuantizer)
            else quantizer(full_precision(weight))
            for key, weight, quantizer in self.get_weights_vars()
        }

    def call(self, inputs: Any, *args: Any, training: Any = None, **kwargs: Any) -> Any:
        """The layer's output with its weights quantized."""
        quantized = {
            key: tf.cast(value, self.layer.compute_dtype)
            for key, value in self.get_quantized_weights(False if training is None else training).items()
        }
        if not self.weight_values:
            with substituted(self.layer, {self._slots[key]: value for key, value in quantized.items()}):
                return self.layer(inputs, *args, **kwargs)
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for position in sorted(quantized):
            tensors.insert(position, quantized[position])
        arguments = [tensors] if self.is_inputs_as_list else tensors
        return self.layer(*arguments, *self.op_call_args, *args, **self.op_call_kwargs, **kwargs)


@contextmanager
def substituted(layer: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """``layer`` with other values in some of its slots, for the time of the context."""
    slots = vars(layer)
    kept = {slot: slots[slot] for slot in values}
    slots.update(values)
    try:
        yield
    finally:
        slots.update(kept)


def slot_of(layer: Any, attribute: str) -> str:
    """The key in ``vars(layer)`` under which a layer keeps the weight it shows as ``attribute``.

    Raises:
        QuantizerError: the layer has no such weight, or computes it from others.

    Example:
        >>> layer = keras.layers.Dense(2)
        >>> layer.build((None, 3))
        >>> slot_of(layer, "kernel") in ("kernel", "_kernel")
        True
    """
    weights = {id(weight) for weight in layer.weights}
    for slot in (attribute, f"_{attribute}"):
        if id(vars(layer).get(slot)) in weights and getattr(layer, attribute, None) is vars(layer)[slot]:
            return slot
    known = [name.lstrip("_") for name, value in vars(layer).items() if id(value) in weights]
    owner = f"{type(layer).__name__} {layer.name!r}"
    advice = nearest(attribute, known)
    if layer.weights and not known:
        advice = "its weights belong to layers inside it: wrap those"
    if hasattr(layer, attribute):
        advice = "it computes this one from others (LoRA?): merge them first"
    raise invalid(owner, "weights_quantizers key", "the name of a weight that the layer holds", attribute, advice)
