"""The fused operation on a CPU: in-place passes over blocks that fit the cache; only the result is of full size.

Memory limits an elementwise operation, and the page faults of fresh buffers cost more than the arithmetic: the same
passes over all elements, one after the other, take several times as long. Comparisons write floats because those
that write bool are not vectorised, and for the same reason a product with 0 or 1 stands where ``torch.where`` would.

Both functions give None for a tensor with elements that are no ordinary numbers: the plain forms of
``fake_quantize.py`` say what becomes of those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import repeat
from typing import Any

import torch

from trainable_quantizers_torch.kernels.layout import Layout
from trainable_quantizers_torch.kernels.limits import limits


def quantize(
    x: torch.Tensor, step: torch.Tensor, zero_point: torch.Tensor, lowest: int, highest: int, channel_axis: int | None
) -> torch.Tensor | None:
    """The same bits as torch's fake-quantize kernels; None if an element is NaN or above 2^63 steps."""
    y = torch.empty_like(x)
    layout = _Cut(y, channel_axis)
    for source, target, inverse, zero, width in layout.blocks((x, y), (1 / step, zero_point, step)):
        levels = target if target.dtype == torch.float32 else torch.empty_like(target, dtype=torch.float32)
        torch.mul(source, inverse, out=levels)
        if not levels.amax() < 2.0**63:
            return None
        levels.round_().add_(zero).clamp_(lowest, highest).sub_(zero).mul_(width)
        if levels is not target:
            target.copy_(levels)
    return y


def gradients(
    g: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    num_steps: int,
    channel_axis: int | None,
    of_range: bool,
    from_rounding: bool,
    ewgs: float,
) -> tuple[Any, ...] | None:
    """The gradients of ``range_gradients`` of the core; None if sums are not finite."""
    grad_x = torch.empty_like(x)
    layout = _Cut(grad_x, channel_axis)
    below, above, moved = [], [], []
    one = other = torch.empty(0)
    for xs, gs, target, lo, hi, inverse in layout.blocks((x, g, grad_x), (low, high, num_steps / (high - low))):
        xs, gs = xs.float(), gs.float()
        if one.shape != xs.shape:
            one, other = torch.empty_like(xs), torch.empty_like(xs)
        if of_range:
            below.append(layout.dot(torch.lt(xs, lo, out=one), gs, one))
            above.append(layout.dot(torch.gt(xs, hi, out=one), gs, one))
        if layout.per_tensor:
            clipped = torch.clamp(xs, lo.item(), hi.item(), out=one)
        else:
            clipped = torch.minimum(torch.maximum(xs, lo, out=one), hi, out=one)
        inside = torch.eq(xs, clipped, out=other)
        passed = torch.mul(gs, inside, out=target if target.dtype == torch.float32 else torch.empty_like(gs))
        if ewgs or (of_range and from_rounding):
            v = clipped.mul_(inverse)
            error = torch.round(v, out=other).sub_(v)
        if of_range and from_rounding:
            moved.append(layout.dot(error, passed, one))
        if ewgs:
            passed.mul_(torch.sign(passed, out=one).mul_(error.nan_to_num_()).mul_(-ewgs).add_(1))
        if passed is not target:
            target.copy_(passed)
    if not of_range:
        return grad_x, None, None
    grad_low, grad_high = (layout.total(parts).view(low.shape) for parts in (below, above))
    if from_rounding:
        shift = layout.total(moved).view(low.shape) / num_steps
        grad_low, grad_high = grad_low - shift, grad_high + shift
    return (grad_x, grad_low, grad_high) if math.isfinite((grad_low + grad_high).sum()) else None


class _Cut(Layout):
    """How a tensor is cut: along one of outer, channels and inner."""

    def __init__(self, dense: torch.Tensor, channel_axis: int | None) -> None:
        super().__init__(dense, channel_axis)
        self.per_tensor = self.channels == 1
        self.axis = 2 if self.per_tensor else 1 if self.outer == 1 else 0
        self.thickness = max(1, limits.block * self.shape[self.axis] // dense.numel())

    def blocks(
        self, tensors: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """The blocks of each tensor, with the parameters of their channels."""
        views = [self.flat(tensor).view(self.shape) for tensor in tensors]
        of_channels = [p.view(1, -1, 1) for p in parameters]
        if self.axis == 0:  # whole rows of parameters, because a repeated operand is slow when it repeats in short runs
            of_channels = [p.expand(1, *self.shape[1:]).contiguous() for p in of_channels]
        if self.thickness >= self.shape[self.axis]:
            return iter([(*views, *of_channels)])
        cuts = [view.split(self.thickness, self.axis) for view in views]
        if self.axis == 1:
            return zip(*cuts, *(p.split(self.thickness, 1) for p in of_channels), strict=True)
        return zip(*cuts, *(repeat(p) for p in of_channels), strict=False)

    def dot(self, one: torch.Tensor, other: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Σ one·other over all but the channels."""
        if self.per_tensor:
            return torch.dot(one.view(-1), other.view(-1))
        products = torch.mul(one, other, out=scratch)
        return (products.sum(0, keepdim=True) if self.axis == 0 else products).sum(2, keepdim=True)

    def total(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sums of all blocks together, one per channel."""
        return torch.cat(list(parts), 1) if self.axis == 1 else reduce(torch.add, parts)
