"""Effective ranges with straight-through gradients (contract section 2)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer.array_ops import ArrayOps
from trainable_quantizers_core.quantizer.grid import Grid


def _neighbours(ascending: tf.Tensor, tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    after = tf.reshape(tf.searchsorted(ascending, tf.reshape(tensor, [-1]), side="right"), tf.shape(tensor))
    lower = tf.maximum(after - 1, 0)
    return lower, tf.minimum(lower + 1, tf.shape(ascending)[0] - 1)


TF_OPS = ArrayOps(
    where=tf.where,
    # Grappler and XLA multiply by the reciprocal of a divisor that they know to be constant.
    divide=lambda tensor, divisor: tensor / tf.maximum(divisor, -tf.abs(tensor)),
    round=tf.round,
    sum=tf.reduce_sum,
    bits=lambda tensor: tf.bitcast(tensor, tf.int32),
    from_bits=lambda tensor: tf.bitcast(tensor, tf.float32),
    exp2=lambda tensor: tf.cast(tf.pow(tf.constant(2, tf.float64), tf.cast(tensor, tf.float64)), tf.float32),
    order=lambda tensor: tf.argsort(tensor, stable=True),
    take=tf.gather,
    neighbours=_neighbours,
    total=tf.math.unsorted_segment_sum,
    shortcut=lambda condition, values, other: tf.cond(tf.reduce_all(condition), lambda: values, other),
)


def symmetric_range(
    threshold: tf.Tensor, grid: Grid, min_threshold: float, power_of_two: bool, log2: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """(lowest, highest) steps of t_eff = max(t, min_threshold), as a power of two on request.

    dt_eff/dt = t_eff/t, and nothing pushes t below the minimum. With ``log2``, ``threshold`` is v = log2 t, and
    dt_eff/dv = t_eff·ln 2.
    """
    rule = (grid, min_threshold, power_of_two, log2)

    @tf.custom_gradient
    def operation(
        threshold: tf.Tensor,
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]:
        def gradient(grad_min: tf.Tensor, grad_max: tf.Tensor) -> tf.Tensor:
            return rules.threshold_gradient(TF_OPS, threshold, grad_min, grad_max, *rule)

        return rules.effective_symmetric_range(TF_OPS, threshold, *rule), gradient

    return operation(threshold)


def uniform_range(
    min_range: tf.Tensor, max_range: tf.Tensor, grid: Grid, min_threshold: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """(min', max'): ordered, wide enough, zero on a level; the gradient passes straight through both ends."""

    @tf.custom_gradient
    def operation(
        min_range: tf.Tensor, max_range: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        ends = rules.effective_uniform_range(TF_OPS, min_range, max_range, grid, min_threshold)
        return ends, lambda grad_min, grad_max: (grad_min, grad_max)

    return operation(min_range, max_range)
