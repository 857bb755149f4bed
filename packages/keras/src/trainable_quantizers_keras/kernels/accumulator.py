"""The bias of a layer, on the grid of its accumulator: contract section 5."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.quantizer import accumulator as rules

from trainable_quantizers_keras.kernels.effective import TF_OPS


def round_bias(bias: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """round(b/Δ)·Δ with Δ = Δ_x·Δ_w, clipped to 32 bits; dL/db = g where nothing was clipped, and none for Δ.

    Examples:
        >>> round_bias(tf.constant([0.3, -0.375]), tf.constant(0.25)).numpy().tolist()
        [0.25, -0.5]
    """

    @tf.custom_gradient
    def operation(bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return rules.rounded_bias(TF_OPS, bias, step), lambda g: rules.bias_gradient(TF_OPS, g, bias, step)

    return operation(bias)
