"""Rounds a bias to the accumulator's grid, and limits weights to its bits (contract section 5)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.quantizer import accumulator as rules
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_keras.kernels.effective import TF_OPS


def step_of_bias(step: tf.Tensor, size: int) -> tf.Tensor:
    """Δ_w for each of ``size`` items of a bias, of Δ for one or fewer channels: a multiplier's come side by side.

    Examples:
        >>> step_of_bias(tf.constant([0.5, 0.25]), 4).numpy().tolist()
        [0.5, 0.5, 0.25, 0.25]
    """
    return rules.per_bias(step, size, tf.repeat)  # type: ignore[no-any-return]


def round_bias(
    bias: tf.Tensor, step: tf.Tensor, finest: tf.Tensor | None = None, largest: int = rules.LARGEST_BIAS
) -> tf.Tensor:
    """round(b/Δ)·Δ, clipped to the accumulator; dL/db = g where nothing was clipped, and none for Δ.

    Args:
        bias: b, of shape (channels,).
        step: Δ = Δ_x·Δ_w, of shape () or (channels,), with the coarsest Δ_x.
        finest: The finest Δ_x over the coarsest; None where they are one.
        largest: The largest |b| in finest steps.

    Examples:
        >>> round_bias(tf.constant([0.3, -0.375]), tf.constant(0.25)).numpy().tolist()
        [0.25, -0.5]
    """

    @tf.custom_gradient
    def operation(bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(g: tf.Tensor) -> tf.Tensor:
            return tf.where(rules.bias_passes(TF_OPS, bias, step, finest, largest), g, 0.0)

        return rules.rounded_bias(TF_OPS, bias, step, finest, largest), gradient

    return operation(bias)


def limit_weight(
    weight: tf.Tensor, step: tf.Tensor, room: tf.Tensor, axis: int, grid: Grid, inputs: tuple[int, int]
) -> tf.Tensor:
    """The weight, with levels of smaller sums in those channels whose sums exceed their room.

    dL/dw = g, but where a channel changed and the weight was clipped; no gradient reaches the step or the room.

    Args:
        weight: Of any shape.
        step: Δ_w, of shape () or (channels,).
        room: Range of the accumulator left beside the bias, in steps, of shape (channels,).
        axis: Of the channels.
        grid: Of the weight.
        inputs: The lowest and the highest level of an input.

    Examples:
        >>> weight = tf.constant([[4.2, 1.0], [-3.0, 1.25], [1.0, 0.0]])
        >>> room = tf.constant([60.0, 60.0])
        >>> limit_weight(weight, tf.constant(1.0), room, 1, Grid(4, True), (0, 15)).numpy().tolist()
        [[3.0, 1.0], [-3.0, 1.25], [1.0, 0.0]]
    """
    axis %= len(weight.shape)
    order = [axis, *(each for each in range(len(weight.shape)) if each != axis)]
    back = [order.index(each) for each in range(len(order))]

    @tf.custom_gradient
    def operation(weight: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        moved = tf.transpose(weight, order)
        rows = tf.reshape(moved, (tf.shape(moved)[0], -1))
        steps = tf.reshape(step, (-1, 1))
        levels = rows / steps
        clipped = tf.clip_by_value(levels, float(grid.lowest), float(grid.highest))
        smaller, changed = rules.limited(TF_OPS, clipped, room, max(-inputs[0], inputs[1]), inputs[0] < 0)
        passes = (levels == clipped) | ~changed[:, None]
        found = tf.where(changed[:, None], smaller * steps, rows)

        def gradient(g: tf.Tensor) -> tf.Tensor:
            return g * tf.cast(tf.transpose(tf.reshape(passes, tf.shape(moved)), back), g.dtype)

        return tf.transpose(tf.reshape(found, tf.shape(moved)), back), gradient

    return operation(weight)
