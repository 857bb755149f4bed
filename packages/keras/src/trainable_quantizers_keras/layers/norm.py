"""A batch norm that normalizes during training and is folded into the layer before it at deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.graph.folding import factor_of, folded_bias, inverse_of

from trainable_quantizers_keras.keras_version import full_precision, keras


@dataclass(frozen=True, eq=False)
class FoldedNorm:
    """The norm behind a layer with quantized weights, with running statistics μ and v: s = γ/sqrt(v + ε).

    Args:
        layer: The batch norm, over the last axis.
        weight: Name of the weight that is quantized as w·s.
        shape: In which s, one number for each channel, is multiplied with the weight.
        constant: s that holds in place of the present one; None for none.

    Examples:
        >>> layer = keras.layers.BatchNormalization(epsilon=0.25, gamma_initializer="ones")
        >>> layer.build((None, 2))
        >>> _ = layer.moving_variance.assign([0.0, 3.75])
        >>> FoldedNorm(layer, "kernel", (-1,)).weight_of(tf.ones((1, 2))).numpy().tolist()
        [[2.0, 0.5]]
    """

    layer: Any
    weight: str
    shape: tuple[int, ...]
    constant: tf.Tensor | None = None

    def weight_of(self, weight: Any) -> tf.Tensor:
        """w·s, as the deployed layer has it before its quantizer."""
        return tf.cast(_wide(weight) * tf.reshape(self._factor(), self.shape), tf.float32)

    def bias_of(self, bias: Any) -> tf.Tensor:
        """β + (b - μ)·s, the bias of the deployed layer."""
        found = folded_bias(self._factor(), _wide(self.layer.moving_mean), _wide(self.layer.beta), _wide(bias))
        return tf.cast(found, tf.float32)

    def shift(self, shift: Any) -> None:
        """Shift the bias of the deployed layer through μ, which training measures anyway."""
        mean = self.layer.moving_mean
        mean.assign_sub(tf.cast(tf.cast(shift, tf.float64) * self._inverse(), mean.dtype))

    def normalized(self, result: tf.Tensor, bias: Any, **options: Any) -> tf.Tensor:
        """The normalized result for a batch in training.

        Args:
            result: Of the layer with the quantized w·s, without a bias.
            bias: b. The norm takes away what a batch has in common, so that nothing but rounding errors would reach b
                as its gradient: it is 0.
            options: Further arguments of the norm.
        """
        wide = tf.cast(result, tf.float32) if result.dtype.size < tf.float32.size else result
        constant = full_precision(bias)
        constant = tf.stop_gradient(constant) + 0.0 * constant
        wide = wide * tf.cast(self._inverse(), wide.dtype) + tf.cast(constant, wide.dtype)
        return self.layer(wide, training=True, **options)

    def held(self) -> FoldedNorm:
        """The same norm, with s kept constant while the statistics change."""
        return replace(self, constant=self._factor())

    def released(self) -> FoldedNorm:
        """The same norm, with s following the statistics again."""
        return replace(self, constant=None)

    def _factor(self) -> tf.Tensor:
        if self.constant is not None:
            return self.constant
        norm = self.layer
        return factor_of(_wide(norm.moving_variance), norm.epsilon, _wide(norm.gamma), _root)

    def _inverse(self) -> tf.Tensor:
        return inverse_of(self._factor(), lambda small, one, other: tf.where(small, tf.cast(one, other.dtype), other))

    def get_config(self) -> dict[str, Any]:
        """The arguments for ``from_config``."""
        layer = keras.utils.serialize_keras_object(self.layer)
        return {"layer": layer, "weight": self.weight, "shape": list(self.shape)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FoldedNorm:
        """The norm that ``get_config`` was called on, not built yet."""
        return cls(keras.utils.deserialize_keras_object(config["layer"]), config["weight"], tuple(config["shape"]))


def _wide(variable: Any) -> Any:
    return None if variable is None else tf.cast(full_precision(variable), tf.float64)


def _root(values: tf.Tensor) -> tf.Tensor:
    """The square root, written so that Grappler and XLA do not turn a quotient by it into a product with ``rsqrt``."""
    return tf.maximum(tf.sqrt(values), 2.0**-500)
