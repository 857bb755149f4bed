"""The fake-quantize operation, forward and backward, on the grid of a range."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from trainable_quantizers_core.quantizer.grid import Grid, range_step, scaled_by_error

from trainable_quantizers_keras.kernels.effective import TF_OPS
from trainable_quantizers_keras.kernels.once import once


def fake_quantize(
    x: tf.Tensor,
    min_range: tf.Tensor,
    max_range: tf.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    from_rounding: bool = False,
    gradient_scale: float | tf.Tensor = 1.0,
    ewgs: float = 0.0,
) -> tf.Tensor:
    """Fake quantization y = Δ·(clip(round(x/Δ) + z, lowest, highest) - z), with Δ = (max - min)/(2^b - 1).

    The forward is the kernel that the inferable quantizers run, so it equals theirs in every bit: halves
    round up. The backward is contract section 4, with in = (min <= x <= max) and e = (y - x)/Δ:

    - dL/dx = g·in·(1 - δ·sign(g)·e), where δ is ``ewgs``
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
        channel_axis: Non-negative channel axis of x; None is per tensor.
        from_rounding: Whether rounding errors inside the range move its ends.
        gradient_scale: r.
        ewgs: δ, by which rounding errors scale dL/dx (Lee et al. 2021, arXiv 2104.00903).

    Examples:
        >>> x = tf.constant([-3.0, 0.3, 0.8])
        >>> fake_quantize(x, tf.constant(-2.0), tf.constant(1.0), Grid(2, signed=True)).numpy().tolist()
        [-2.0, 0.0, 1.0]
    """
    kernel, kernel_gradient = _KERNELS[channel_axis is not None]
    channels_last, restore = _channels_last(x, channel_axis)

    @tf.custom_gradient
    def operation(
        x: tf.Tensor, low: tf.Tensor, high: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        def forward(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
            return kernel(inputs=x, min=low, max=high, num_bits=grid.num_bits, narrow_range=False)

        def gradient(
            g: tf.Tensor, x: tf.Tensor, low: tf.Tensor, high: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            passed, grad_min, grad_max = kernel_gradient(
                gradients=g, inputs=x, min=low, max=high, num_bits=grid.num_bits, narrow_range=False
            )
            grad_x = passed
            if from_rounding or ewgs:
                # Recomputing the output is cheaper than keeping it, or rounding x by hand.
                error, step = forward(x, low, high) - x, range_step(TF_OPS, low, high, grid)
            if from_rounding:
                products = tf.math.multiply_no_nan(error, passed)  # an infinite x does not count
                moved = tf.reduce_sum(products, None if channel_axis is None else 0) / step / grid.num_steps
                grad_min, grad_max = grad_min - moved, grad_max + moved
            if ewgs:
                error = tf.where(passed == 0, 0.0, error / step)  # likewise
                grad_x = scaled_by_error(TF_OPS, passed, error, ewgs)
            return grad_x, grad_min * gradient_scale, grad_max * gradient_scale

        return forward(x, low, high), lambda g: once(gradient, g, x, low, high)

    y = restore(operation(channels_last(tf.cast(x, tf.float32)), min_range, max_range))
    return tf.cast(y, x.dtype)


def _channels_last(
    x: tf.Tensor, channel_axis: int | None
) -> tuple[Callable[[tf.Tensor], tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """To the form that TensorFlow's kernels take, (elements, channels) for any rank, and back."""
    if channel_axis is None:
        return tf.identity, tf.identity
    last = x.shape.rank - 1
    order = list(range(last + 1))
    order[channel_axis], order[last] = last, channel_axis
    shape = tf.gather(tf.shape(x), order)

    def swap(tensor: tf.Tensor) -> tf.Tensor:
        return tensor if channel_axis == last else tf.transpose(tensor, order)

    return lambda tensor: tf.reshape(swap(tensor), [-1, shape[-1]]), lambda tensor: swap(tf.reshape(tensor, shape))


_KERNELS = {
    False: (tf.raw_ops.FakeQuantWithMinMaxVars, tf.raw_ops.FakeQuantWithMinMaxVarsGradient),
    True: (tf.raw_ops.FakeQuantWithMinMaxVarsPerChannel, tf.raw_ops.FakeQuantWithMinMaxVarsPerChannelGradient),
}
