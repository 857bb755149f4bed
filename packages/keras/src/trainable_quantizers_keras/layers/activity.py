"""The activity regularizer of a layer as a layer of its own, for layers that were split or replaced."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_keras.keras_version import PACKAGE, keras


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasActivityRegularization(keras.layers.Layer):
    """Passes its input on, and adds its regularization term to the loss.

    Examples:
        >>> import numpy as np
        >>> layer = KerasActivityRegularization(activity_regularizer="l2")
        >>> layer(np.float32([[3.0, 4.0]])).numpy().tolist(), float(layer.losses[0])
        ([[3.0, 4.0]], 0.25)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """The input."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The regularizer, which the configuration of Keras 2 leaves out."""
        return {
            **super().get_config(),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
        }


def regularized(layer: Any, result: Any) -> Any:
    """A result of the replacement of ``layer``, regularized as the results of the layer are."""
    if getattr(layer, "activity_regularizer", None) is None:
        return result
    name = f"{layer.name}_regularization"
    return KerasActivityRegularization(activity_regularizer=layer.activity_regularizer, name=name)(result)
