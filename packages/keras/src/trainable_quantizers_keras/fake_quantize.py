"""The one elementwise operation: fake quantization to the grid of a range, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.grid import Grid, range_step

from trainable_quantizers_keras.effective import TF_OPS


def fake_quantize(
    x: tf.Tensor,
    min_range: tf.Tensor,
    max_range: tf.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    from_rounding: bool = False,
    gradient_scale: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Y = Δ·(clip(round(x/Δ) + z, lowest, highest) - z), with Δ = (max - min)/(2^b - 1).

    The forward is the kernel that the inferable quantizers run, so it equals theirs in every bit: halves
    round up. The backward is contract section 4, with in = (min <= x <= max) and e = (y - x)/Δ:

    - dL/dx = g·in
    - dL/dmin = r·Σ (g where x < min; -g·e/(2^b - 1) where in, if ``from_rounding``)
    - dL/dmax = r·Σ (g where x > max; +g·e/(2^b - 1) where in, if ``from_rounding``)

    A symmetric range is a linear function of its threshold, and with it these sums become those of the
    threshold.

    Args:
        x: Any floating tensor; the arithmetic is float32, the output has its dtype.
        min_range: Lower end of the range: shape (), or (channels,) with ``channel_axis``. An exact multiple
            of the step, as ``effective_range`` makes it.
        max_range: Upper end, likewise.
        grid: The levels.
        channel_axis: Non-negative axis of x that counts channels; None is per tensor.
        from_rounding: Whether rounding errors inside the range move its ends.
        gradient_scale: r.

    Example:
        >>> x = tf.constant([-3.0, 0.3, 0.8])
        >>> fake_quantize(x, tf.constant(-2.0), tf.constant(1.0), Grid(2, signed=True)).numpy().tolist()
        [-2.0, 0.0, 1.0]
    """

    @tf.custom_gradient
    def operation(
        x: tf.Tensor, min_range: tf.Tensor, max_range: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        y = _kernel(x, min_range, max_range, grid.num_bits, channel_axis)

        def gradient(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            shape = [1] * x.shape.rank
            if channel_axis is not None:
                shape[channel_axis] = -1
            low, high = tf.reshape(min_range, shape), tf.reshape(max_range, shape)
            inside = (x >= low) & (x <= high)
            zero = tf.zeros_like(g)
            axes = [axis for axis in range(x.shape.rank) if axis != channel_axis]
            from_inside: float | tf.Tensor = 0.0
            if from_rounding:
                error = tf.where(inside, (y - x) / range_step(TF_OPS, low, high, grid), zero)
                from_inside = tf.reduce_sum(g * error, axes) / grid.num_steps
            grad_min = tf.reduce_sum(tf.where(x < low, g, zero), axes) - from_inside
            grad_max = tf.reduce_sum(tf.where(x > high, g, zero), axes) + from_inside
            return tf.where(inside, g, zero), grad_min * gradient_scale, grad_max * gradient_scale

        return y, gradient

    return tf.cast(operation(tf.cast(x, tf.float32), min_range, max_range), x.dtype)


def _kernel(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, num_bits: int, channel_axis: int | None) -> tf.Tensor:
    """TensorFlow's kernel, whose channels are on the last axis."""
    if channel_axis is None:
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits)
    last = x.shape.rank - 1
    order = list(range(last + 1))
    order[channel_axis], order[last] = last, channel_axis
    moved = x if channel_axis == last else tf.transpose(x, order)
    y = tf.quantization.fake_quant_with_min_max_vars_per_channel(moved, low, high, num_bits)
    return y if channel_axis == last else tf.transpose(y, order)
