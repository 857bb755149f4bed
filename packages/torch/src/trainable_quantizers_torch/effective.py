"""Effective parameters with their straight-through gradients: contract section 2."""

from __future__ import annotations

from typing import Any

import torch
from trainable_quantizers_core import grid as rules
from trainable_quantizers_core.grid import ArrayOps, Grid

TORCH_OPS = ArrayOps(
    where=torch.where,
    divide=torch.div,
    round=torch.round,
    bits=lambda tensor: tensor.view(torch.int32),
    from_bits=lambda tensor: tensor.view(torch.float32),
)


def effective_threshold(threshold: torch.Tensor, min_threshold: float, power_of_two: bool) -> torch.Tensor:
    """t_eff = max(t, min_threshold), as a power of two on request; dt_eff/dt = t_eff/t, no push below the minimum."""
    return _EffectiveThreshold.apply(threshold.float(), min_threshold, power_of_two)


def effective_range(
    min_range: torch.Tensor, max_range: torch.Tensor, grid: Grid, min_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(min', max'): ordered, wide enough, zero on a level; the gradient passes straight through both ends."""
    return _EffectiveRange.apply(min_range.float(), max_range.float(), grid, min_threshold)


class _EffectiveThreshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, threshold: torch.Tensor, min_threshold: float, power_of_two: bool) -> torch.Tensor:
        effective = rules.effective_threshold(TORCH_OPS, threshold, min_threshold, power_of_two)
        ctx.save_for_backward(threshold, effective)
        ctx.min_threshold = min_threshold
        return effective

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        threshold, effective = ctx.saved_tensors
        return rules.threshold_gradient(TORCH_OPS, threshold, effective, ctx.min_threshold, gradient), None, None


class _EffectiveRange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, min_range: torch.Tensor, max_range: torch.Tensor, grid: Grid, min_threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        step, zero_point = rules.uniform_grid(TORCH_OPS, min_range, max_range, grid, min_threshold)
        return rules.uniform_range(step, zero_point, grid)

    @staticmethod
    def backward(ctx: Any, grad_min: torch.Tensor, grad_max: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_min, grad_max, None, None
