"""A weight as a layer, for weights that functions read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainable_quantizers_keras.keras_version import PACKAGE, keras


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasWeight(keras.layers.Layer):
    """Gives its weight for any input, so that a weight that a function reads can be wrapped like that of a layer.

    Args:
        shape: Shape of the weight.
        weight_dtype: Its type.
        weight_trainable: Whether it trains.
        regularizer: As of ``add_weight``.
        constraint: As of ``add_weight``.

    Examples:
        >>> KerasWeight((2, 3))(tf.zeros((5, 2))).shape
        TensorShape([2, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        weight_dtype: str = "float32",
        weight_trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.weight_dtype = weight_dtype
        self.weight_trainable = weight_trainable
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.weight = self.add_weight(
            name="weight",
            shape=self.shape,
            dtype=self.weight_dtype,
            initializer="zeros",
            trainable=self.weight_trainable,
            regularizer=self.regularizer,
            constraint=self.constraint,
        )

    def call(self, inputs: Any) -> Any:
        """The weight, in the type that the layer computes in."""
        weight = tf.convert_to_tensor(self.weight)
        return tf.cast(weight, self.compute_dtype) if weight.dtype.is_floating else weight

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the weight."""
        return tf.TensorShape(self.shape)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """A weight has none."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "shape": list(self.shape),
            "weight_dtype": self.weight_dtype,
            "weight_trainable": self.weight_trainable,
            "regularizer": keras.regularizers.serialize(self.regularizer) if self.regularizer else None,
            "constraint": keras.constraints.serialize(self.constraint) if self.constraint else None,
        }
