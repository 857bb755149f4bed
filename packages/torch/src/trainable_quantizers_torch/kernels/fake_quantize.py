"""The fake-quantize operation, forward and backward, on the grid of a range."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.quantizer.array_ops import NUMBER_OPS, NUMPY_OPS, ArrayOps, numbers_stay_float32
from trainable_quantizers_core.quantizer.grid import Grid, grid_ends, range_gradients, range_step, range_zero_point

from trainable_quantizers_torch.kernels import blocks, jit
from trainable_quantizers_torch.kernels.effective import TORCH_OPS, follow
from trainable_quantizers_torch.kernels.layout import as_array
from trainable_quantizers_torch.kernels.limits import limits
from trainable_quantizers_torch.kernels.operator import on_cpu, operator, stands_for_values


def fake_quantize(
    x: torch.Tensor,
    min_range: torch.Tensor,
    max_range: torch.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    from_rounding: bool = False,
    gradient_scale: float = 1.0,
    ewgs: float = 0.0,
) -> torch.Tensor:
    """Fake quantization y = Δ·(clip(round(x/Δ) + z, lowest, highest) - z), with Δ = (max - min)/(2^b - 1).

    The forward is the kernel that the inferable quantizers run, so it equals theirs in every bit: halves
    round to even, and x is multiplied by 1/Δ. The backward is contract section 4, with
    in = (min <= x <= max) and e = (y - x)/Δ:

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
        >>> x = torch.tensor([-3.0, 0.3, 0.8])
        >>> fake_quantize(x, torch.tensor(-2.0), torch.tensor(1.0), Grid(2, signed=True)).tolist()
        [-2.0, 0.0, 1.0]
    """
    how = (channel_axis, from_rounding, gradient_scale, ewgs)
    return _fake_quantize(x, min_range, max_range, grid.num_bits, grid.signed, *how)


def _forward(
    x: torch.Tensor,
    min_range: torch.Tensor,
    max_range: torch.Tensor,
    num_bits: int,
    signed: bool,
    channel_axis: int | None,
    *how_to_learn: Any,
) -> torch.Tensor:
    """Plain operations for compilers and ``vmap``, blocks on a CPU, else the deployed kernel itself."""
    grid = Grid(num_bits, signed)
    real = on_cpu(x)
    small = real and x.numel() <= limits.small
    if small and channel_axis is None and numbers_stay_float32:
        low, high = np.float32(min_range.item()), np.float32(max_range.item())
        width = range_step(NUMBER_OPS, low, high, grid)
        if width > 0:  # as every effective range is
            zero = int(range_zero_point(NUMBER_OPS, low, width, grid))
            y = torch.fake_quantize_per_tensor_affine(x.float(), float(width), zero, grid.lowest, grid.highest)
            return y.to(x.dtype)
    step = range_step(TORCH_OPS, min_range, max_range, grid)
    zero_point = range_zero_point(TORCH_OPS, min_range, step, grid)
    if stands_for_values(x):
        step, zero_point = (_broadcast(p, x, channel_axis) for p in (step, zero_point))
        levels = torch.clamp(torch.round(x.float() * (1 / step)) + zero_point, grid.lowest, grid.highest)
        return ((levels - zero_point) * step).to(x.dtype)
    if real and not small:
        kernel = jit.quantize if limits.numba else blocks.quantize
        y = kernel(x, step, zero_point, grid.lowest, grid.highest, channel_axis)
        if y is not None:
            return y
    zero_point = zero_point.to(torch.int32)
    if channel_axis is None:
        y = torch.fake_quantize_per_tensor_affine(x.float(), step, zero_point, grid.lowest, grid.highest)
    else:
        y = torch.fake_quantize_per_channel_affine(x.float(), step, zero_point, channel_axis, grid.lowest, grid.highest)
    return y.to(x.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """For the backward, the input alone: the output and masks are cheaper to compute again than to keep."""
    x, min_range, max_range, num_bits, signed, *how = inputs
    ctx.save_for_backward(x, min_range, max_range)
    ctx.grid, ctx.how = Grid(num_bits, signed), how


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, min_range, max_range = ctx.saved_tensors
    channel_axis, from_rounding, gradient_scale, ewgs = ctx.how
    low, high = follow(grid_ends, (min_range, max_range), ctx.grid)
    of_range = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    how = (ctx.grid.num_steps, channel_axis, of_range, from_rounding, ewgs)
    gradients = None
    if on_cpu(x):
        large = jit.gradients if limits.numba else blocks.gradients
        kernel = large if x.numel() > limits.small else _small_gradients
        gradients = kernel(g, x, low, high, *how)
    if gradients is None:
        gradients = _gradients(TORCH_OPS, g.float(), x.float(), low, high, *how)
    grad_x, *ends = gradients
    grad_min, grad_max = (None if end is None else end * gradient_scale for end in ends)
    return grad_x.to(x.dtype), grad_min, grad_max, *(None,) * 6


def _gradients(
    ops: ArrayOps, g: Any, x: Any, low: Any, high: Any, num_steps: int, channel_axis: int | None, *which: Any
) -> tuple[Any, Any, Any]:
    """Whole tensors at once: for compilers, GPUs and odd numbers."""
    shared = [axis for axis in range(x.ndim) if axis != channel_axis]
    low, high = (_broadcast(end, x, channel_axis) for end in (low, high))
    return range_gradients(ops, g, x, low, high, num_steps, shared, *which)


def _small_gradients(
    g: torch.Tensor, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, *how: Any
) -> tuple[Any, ...]:
    """In numpy, whose calls take a third of the time."""
    with np.errstate(all="ignore"):
        grads, values, lows, highs = (as_array(each) for each in (g.float(), x.float(), low, high))
        gradients = _gradients(NUMPY_OPS, grads, values, lows, highs, *how)
    return tuple(None if gradient is None else torch.from_numpy(np.asarray(gradient)) for gradient in gradients)


def _broadcast(parameter: Any, x: Any, channel_axis: int | None) -> Any:
    if channel_axis is None:
        return parameter
    return parameter.reshape([-1 if axis == channel_axis else 1 for axis in range(x.ndim)])


_fake_quantize = operator(
    "fake_quantize(Tensor x, Tensor min_range, Tensor max_range, int num_bits, bool signed, int? channel_axis, "
    "bool from_rounding, float gradient_scale, float ewgs) -> Tensor",
    _forward,
    _keep,
    _backward,
    fake=lambda x, *_: torch.empty_like(x),
)
