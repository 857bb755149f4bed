"""Quantization to the entries of a look-up table instead of evenly spaced levels (contract section 4)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer import table as tables
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_keras.kernels.effective import TF_OPS
from trainable_quantizers_keras.kernels.once import once


def effective_threshold(
    threshold: tf.Tensor, min_threshold: float, power_of_two: bool, log2: bool = False
) -> tf.Tensor:
    """t_eff = max(t, min_threshold), as a power of two on request; dt_eff/dt = t_eff/t, and no push below the minimum.

    With ``log2``, ``threshold`` is v = log2 t, and dt_eff/dv = t_eff·ln 2.

    Examples:
        >>> effective_threshold(tf.constant([0.7, -1.0]), 0.25, power_of_two=True).numpy().tolist()
        [1.0, 0.25]
    """
    rule = (min_threshold, power_of_two, log2)

    @tf.custom_gradient
    def operation(threshold: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        effective = rules.effective_threshold(TF_OPS, threshold, *rule)
        return effective, lambda gradient: rules.through_threshold(TF_OPS, threshold, gradient, *rule)

    return operation(threshold)


def effective_table(table: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Integer levels of fractions of the threshold, in ascending order, with a straight-through gradient.

    Examples:
        >>> effective_table(tf.constant([0.5, -0.25]), tables.table_grid(True)).numpy().tolist()
        [-32.0, 64.0]
    """

    @tf.custom_gradient
    def operation(table: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        levels = tables.effective_table(TF_OPS, table, grid)
        return levels, lambda gradient: tables.table_gradient(TF_OPS, table, gradient, grid)

    return operation(table)


def look_up(
    x: tf.Tensor,
    threshold: tf.Tensor,
    levels: tf.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    threshold_scale: float | tf.Tensor = 1.0,
    table_scale: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """The look-up y = c/2^(8-s)·t for the table's level c nearest to x/t·2^(8-s), clipped to 8 bits.

    Args:
        x: Any floating tensor; the arithmetic is float32, the output has its dtype.
        threshold: The result of ``effective_threshold``, of shape (), or (channels,) with ``channel_axis``.
        levels: The result of ``effective_table``.
        grid: The levels that a table can have.
        channel_axis: Non-negative channel axis of x; None is per tensor.
        threshold_scale: r of the threshold.
        table_scale: r of the table.

    Examples:
        >>> levels = tf.constant([-64.0, 0.0, 96.0])
        >>> x = tf.constant([-3.0, 0.1, 1.4])
        >>> look_up(x, tf.constant(2.0), levels, tables.table_grid(True)).numpy().tolist()
        [-1.0, 0.0, 1.5]
    """
    rank = x.shape.rank
    shared = None if channel_axis is None else [axis for axis in range(rank) if axis != channel_axis]

    @tf.custom_gradient
    def operation(
        x: tf.Tensor, threshold: tf.Tensor, levels: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        along = threshold
        if channel_axis is not None:
            along = tf.reshape(threshold, [-1 if axis == channel_axis else 1 for axis in range(rank)])

        def gradient(
            g: tf.Tensor, x: tf.Tensor, along: tf.Tensor, levels: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_x, of_threshold, of_levels = tables.look_up_gradients(TF_OPS, g, x, along, levels, grid, shared)
            return of_x, of_threshold * threshold_scale, of_levels * table_scale

        return tables.look_up(TF_OPS, x, along, levels, grid), lambda g: once(gradient, g, x, along, levels)

    return tf.cast(operation(tf.cast(x, tf.float32), threshold, levels), x.dtype)
