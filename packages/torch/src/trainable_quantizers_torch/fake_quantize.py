"""The one elementwise operation: fake quantization to the grid of a range, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from trainable_quantizers_core.grid import Grid, range_step, range_zero_point

from trainable_quantizers_torch.effective import TORCH_OPS


def fake_quantize(
    x: torch.Tensor,
    min_range: torch.Tensor,
    max_range: torch.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    from_rounding: bool = False,
    gradient_scale: float = 1.0,
) -> torch.Tensor:
    """Y = Δ·(clip(round(x/Δ) + z, lowest, highest) - z), with Δ = (max - min)/(2^b - 1).

    The forward is the kernel that the inferable quantizers run, so it equals theirs in every bit: halves
    round to even, and x is multiplied by 1/Δ. The backward is contract section 4, with
    in = (min <= x <= max) and e = (y - x)/Δ:

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
        >>> x = torch.tensor([-3.0, 0.3, 0.8])
        >>> fake_quantize(x, torch.tensor(-2.0), torch.tensor(1.0), Grid(2, signed=True)).tolist()
        [-2.0, 0.0, 1.0]
    """
    y = _FakeQuantize.apply(x.float(), min_range, max_range, grid, channel_axis, from_rounding, gradient_scale)
    return y.to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        min_range: torch.Tensor,
        max_range: torch.Tensor,
        grid: Grid,
        channel_axis: int | None,
        from_rounding: bool,
        gradient_scale: float,
    ) -> torch.Tensor:
        step = range_step(TORCH_OPS, min_range, max_range, grid)
        zero_point = range_zero_point(TORCH_OPS, min_range, step, grid).to(torch.int32)
        if channel_axis is None:
            y = torch.fake_quantize_per_tensor_affine(x, step, zero_point, grid.lowest, grid.highest)
        else:
            y = torch.fake_quantize_per_channel_affine(x, step, zero_point, channel_axis, grid.lowest, grid.highest)
        ctx.save_for_backward(x, y if from_rounding else None, min_range, max_range)
        ctx.grid, ctx.channel_axis, ctx.gradient_scale = grid, channel_axis, gradient_scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, min_range, max_range = ctx.saved_tensors
        shape = [1] * x.ndim
        if ctx.channel_axis is not None:
            shape[ctx.channel_axis] = -1
        low, high = min_range.reshape(shape), max_range.reshape(shape)
        inside = (x >= low) & (x <= high)
        grad_x = torch.where(inside, g, 0.0)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return grad_x, None, None, None, None, None, None
        axes = [axis for axis in range(x.ndim) if axis != ctx.channel_axis]
        from_inside = 0.0
        if y is not None:
            error = torch.where(inside, (y - x) / range_step(TORCH_OPS, low, high, ctx.grid), 0.0)
            from_inside = _sum(g * error, axes) / ctx.grid.num_steps
        grad_min = _sum(torch.where(x < low, g, 0.0), axes) - from_inside
        grad_max = _sum(torch.where(x > high, g, 0.0), axes) + from_inside
        scale = ctx.gradient_scale
        return grad_x, grad_min * scale, grad_max * scale, None, None, None, None


def _sum(tensor: torch.Tensor, axes: list[int]) -> torch.Tensor:
    return tensor.sum(axes) if axes else tensor
