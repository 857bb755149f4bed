"""The arguments of a layer's call, split into tensors and constants."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from trainable_quantizers_keras.keras_version import KERAS_3, keras


@dataclass(frozen=True)
class CallForm:
    """The arguments of a call of a layer, taken apart.

    Args:
        signature: Of the layer's ``call``.
        tensors: Those among the arguments, in the order of the signature, each once.
        constants: The other arguments in words; of tensors, that there is one.
        named: The arguments by name.
        masked: The tensors that have masks, by identity of the mask.
        first: Which of the tensors make up the first argument, in its structure.
    """

    signature: inspect.Signature
    tensors: list[Any]
    constants: str
    named: dict[str, Any] = field(default_factory=dict)
    masked: dict[int, Any] = field(default_factory=dict)
    first: Any = None

    @classmethod
    def of(cls, signature: inspect.Signature, args: Any, kwargs: Any) -> CallForm:
        """The form of a call, with the masks of its symbols.

        A mask that ``call`` takes is an argument; any other comes after all of them, for the layers inside.
        """
        named = dict(signature.bind_partial(*args, **kwargs).arguments)
        beside: list[Any] = []
        masked: dict[int, Any] = {}
        for name, value in list(named.items()):
            for tensor in tf.nest.flatten(value):
                mask = getattr(tensor, "_keras_mask", None)
                argument = f"{name}_mask" if f"{name}_mask" in signature.parameters else "mask"
                masked[id(mask)] = tensor
                if mask is not None and tensor is value and argument in signature.parameters:
                    named[argument] = mask if named.get(argument) is None else named[argument]
                elif mask is not None:
                    beside.append(mask)
        ordered = {name: named[name] for name in signature.parameters if name in named and name != "training"}
        tensors = [value for value in tf.nest.flatten(list(ordered.values())) if _is_tensor(value)]
        distinct = list({id(tensor): tensor for tensor in [*tensors, *beside]}.values())
        number = {id(tensor): index for index, tensor in enumerate(distinct)}
        shown = {
            name: tf.nest.map_structure(lambda item: f"tensor {number[id(item)]}" if _is_tensor(item) else item, value)
            for name, value in ordered.items()
            if value is not None
        }
        first = tf.nest.map_structure(lambda item: number.get(id(item)), next(iter(ordered.values()), None))
        return cls(signature, distinct, str(shown), ordered, masked, first)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def is_symbol(value: Any) -> bool:
    """Whether a value is a symbol of Keras, as functional models are made of."""
    return hasattr(value, "_keras_history") or (KERAS_3 and isinstance(value, keras.KerasTensor))
