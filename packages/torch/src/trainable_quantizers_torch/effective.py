"""Effective ranges with their straight-through gradients: contract section 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core import grid as rules
from trainable_quantizers_core.grid import NUMBER_OPS, NUMPY_OPS, ArrayOps, Grid, numbers_stay_float32

TORCH_OPS = ArrayOps(
    where=torch.where,
    divide=torch.div,
    round=torch.round,
    sum=lambda tensor, axes: tensor.sum(axes) if axes else tensor,
    bits=lambda tensor: tensor.view(torch.int32),
    from_bits=lambda tensor: tensor.view(torch.float32),
)


def symmetric_range(
    threshold: torch.Tensor, grid: Grid, min_threshold: float, power_of_two: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(lowest, highest) steps of t_eff = max(t, min_threshold), as a power of two on request.

    dt_eff/dt = t_eff/t, and nothing pushes t below the minimum.
    """
    return _SymmetricRange.apply(threshold.float(), grid, min_threshold, power_of_two)


def uniform_range(
    min_range: torch.Tensor, max_range: torch.Tensor, grid: Grid, min_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(min', max'): ordered, wide enough, zero on a level; the gradient passes straight through both ends."""
    return _UniformRange.apply(min_range.float(), max_range.float(), grid, min_threshold)


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the values lie open to read, now, by whatever means is fastest."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _follow(rule: Callable[..., Any], tensors: tuple[torch.Tensor, ...], *arguments: Any) -> Any:
    """``rule(ops, *tensors, *arguments)``; on a CPU in numpy, whose calls take a third of the time."""
    if not on_cpu(tensors[0]):
        return rule(TORCH_OPS, *tensors, *arguments)
    if tensors[0].numel() == 1 and numbers_stay_float32:
        results = rule(NUMBER_OPS, *(np.float32(tensor.item()) for tensor in tensors), *arguments)
    else:
        results = rule(NUMPY_OPS, *(tensor.detach().reshape(-1).numpy() for tensor in tensors), *arguments)
    shape = tensors[0].shape
    if isinstance(results, tuple):
        return tuple(torch.from_numpy(np.asarray(result)).view(shape) for result in results)
    return torch.from_numpy(np.asarray(results)).view(shape)


class _SymmetricRange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, threshold: torch.Tensor, grid: Grid, min_threshold: float, power_of_two: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(threshold)
        ctx.rule = (grid, min_threshold, power_of_two)
        return _follow(rules.effective_symmetric_range, (threshold,), *ctx.rule)

    @staticmethod
    def backward(ctx: Any, grad_min: torch.Tensor, grad_max: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (threshold,) = ctx.saved_tensors
        return _follow(rules.threshold_gradient, (threshold, grad_min, grad_max), *ctx.rule), None, None, None


class _UniformRange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, min_range: torch.Tensor, max_range: torch.Tensor, grid: Grid, min_threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _follow(rules.effective_uniform_range, (min_range, max_range), grid, min_threshold)

    @staticmethod
    def backward(ctx: Any, grad_min: torch.Tensor, grad_max: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_min, grad_max, None, None
