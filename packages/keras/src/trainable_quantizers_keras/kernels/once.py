"""Gradients without a second derivative: differentiating them is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from trainable_quantizers_core import QuantizerError

_TWICE = (
    "double backward (and forward mode) is not defined for a quantizer, whose gradient goes straight through: "
    "differentiate the float model twice instead."
)


def once(gradient: Callable[..., Any], *tensors: tf.Tensor) -> Any:
    """``gradient(*tensors)`` without a derivative of its own, some of which TensorFlow would take for zero.

    Raises:
        QuantizerError: when it is differentiated.
    """

    @tf.custom_gradient
    def operation(*tensors: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
        def refuse(*_: tf.Tensor) -> Any:
            raise QuantizerError(_TWICE)

        return gradient(*tensors), refuse

    return operation(*tensors)
