"""The installed Keras version, and the few differences between Keras 2 and Keras 3."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.errors import invalid

keras = tf.keras
KERAS_3 = hasattr(keras, "ops")
PACKAGE = "trainable_quantizers"
"""Package under which classes are registered with Keras."""

if KERAS_3 and keras.backend.backend() != "tensorflow":
    raise invalid(
        "trainable_quantizers_keras",
        "the backend of Keras",
        "tensorflow",
        keras.backend.backend(),
        "set KERAS_BACKEND=tensorflow before importing keras",
    )


def infers_shapes() -> bool:
    """Whether Keras 2 is calling a layer only to infer shapes, as it does for every call on symbols."""
    return not KERAS_3 and getattr(tf.compat.v1.get_default_graph(), "name", "").endswith("_scratch_graph")


def add_float32_weight(layer: Any, name: str, value: np.ndarray, trainable: bool) -> Any:
    """A variable of ``layer`` that stays float32 under every dtype policy."""
    autocast = {"autocast": False} if KERAS_3 else {"experimental_autocast": False}
    initializer = keras.initializers.Constant(value)
    return layer.add_weight(
        name=name, shape=value.shape, initializer=initializer, dtype="float32", trainable=trainable, **autocast
    )


def regularizer_of(layer: Any, variable: Any) -> Any:
    """The regularizer of a layer's weight, or None. Keras 2 keeps it inside a function that gives the loss."""
    if KERAS_3:
        return variable.regularizer
    for loss in layer._callable_losses:
        of_variable: Any = next(iter(getattr(loss, "args", ())), None)
        if getattr(of_variable, "args", ()) and of_variable.args[0] is variable:
            return inspect.getclosurevars(of_variable.func).nonlocals.get("regularizer")
    return None


def rename(layer: Any, name: str) -> None:
    """Rename a layer or operation."""
    setattr(layer, "name" if KERAS_3 else "_name", name)


def stored(variable: Any) -> Any:
    """The variable of TensorFlow behind one of Keras; anything else as it is."""
    return getattr(variable, "_value" if KERAS_3 else "_variable", variable)


def full_precision(variable: Any) -> tf.Tensor:
    """The value of a variable as it is stored, also inside the autocast scope of a mixed-precision layer."""
    return tf.convert_to_tensor(stored(variable))
