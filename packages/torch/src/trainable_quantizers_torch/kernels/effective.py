"""Effective ranges with straight-through gradients (contract section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer.array_ops import NUMBER_OPS, NUMPY_OPS, ArrayOps, numbers_stay_float32
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_torch.kernels.layout import as_array
from trainable_quantizers_torch.kernels.operator import on_cpu, operator


def _neighbours(ascending: torch.Tensor, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    after = torch.searchsorted(ascending, tensor.reshape(-1), right=True).reshape(tensor.shape)
    lower = (after - 1).clamp(min=0)
    return lower, (lower + 1).clamp(max=len(ascending) - 1)


TORCH_OPS = ArrayOps(
    where=torch.where,
    divide=torch.div,
    round=torch.round,
    sum=lambda tensor, axes: tensor.sum(axes) if axes else tensor,
    bits=lambda tensor: tensor.view(torch.int32),
    from_bits=lambda tensor: tensor.view(torch.float32),
    exp2=lambda tensor: torch.exp2(tensor.double()).float(),
    order=lambda tensor: torch.argsort(tensor, stable=True),
    take=lambda tensor, positions: tensor[positions],
    neighbours=_neighbours,
    shortcut=lambda condition, values, other: values if on_cpu(condition) and bool(condition.all()) else other(),
    total=lambda tensor, positions, count: tensor.new_zeros(count).index_add(0, positions.flatten(), tensor.flatten()),
)


def symmetric_range(
    threshold: torch.Tensor, grid: Grid, min_threshold: float, power_of_two: bool, log2: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(lowest, highest) steps of t_eff = max(t, min_threshold), as a power of two on request.

    dt_eff/dt = t_eff/t, and nothing pushes t below the minimum. With ``log2``, ``threshold`` is v = log2 t, and
    dt_eff/dv = t_eff·ln 2.
    """
    return _symmetric_range(threshold.float(), grid.num_bits, grid.signed, min_threshold, power_of_two, log2)


def uniform_range(
    min_range: torch.Tensor, max_range: torch.Tensor, grid: Grid, min_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(min', max'): ordered, wide enough, zero on a level; the gradient passes straight through both ends."""
    return _uniform_range(min_range.float(), max_range.float(), grid.num_bits, grid.signed, min_threshold)


def follow(rule: Callable[..., Any], tensors: tuple[torch.Tensor, ...], *arguments: Any) -> Any:
    """``rule(ops, *tensors, *arguments)``; on a CPU in numpy, whose calls take a third of the time."""
    if not on_cpu(tensors[0]):
        return rule(TORCH_OPS, *tensors, *arguments)
    if tensors[0].numel() == 1 and numbers_stay_float32:
        results = rule(NUMBER_OPS, *(np.float32(tensor.item()) for tensor in tensors), *arguments)
    else:
        results = rule(NUMPY_OPS, *(as_array(tensor.reshape(-1)) for tensor in tensors), *arguments)
    shape = tensors[0].shape
    if isinstance(results, tuple):
        return tuple(torch.from_numpy(np.asarray(result)).view(shape) for result in results)
    return torch.from_numpy(np.asarray(results)).view(shape)


def _symmetric_forward(
    threshold: torch.Tensor, num_bits: int, signed: bool, *how: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return follow(rules.effective_symmetric_range, (threshold,), Grid(num_bits, signed), *how)


def _keep_threshold(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    threshold, num_bits, signed, *how = inputs
    ctx.save_for_backward(threshold)
    ctx.rule = (Grid(num_bits, signed), *how)


def _symmetric_backward(ctx: Any, grad_min: torch.Tensor, grad_max: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (threshold,) = ctx.saved_tensors
    return follow(rules.threshold_gradient, (threshold, grad_min, grad_max), *ctx.rule), *(None,) * 5


_symmetric_range = operator(
    "symmetric_range(Tensor threshold, int num_bits, bool signed, float min_threshold, bool power_of_two, bool log2)"
    " -> (Tensor, Tensor)",
    _symmetric_forward,
    _keep_threshold,
    _symmetric_backward,
    fake=lambda threshold, *_: (torch.empty_like(threshold), torch.empty_like(threshold)),
)


def _uniform_forward(
    min_range: torch.Tensor, max_range: torch.Tensor, num_bits: int, signed: bool, min_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    ends = follow(rules.effective_uniform_range, (min_range, max_range), Grid(num_bits, signed), min_threshold)
    if torch.compiler.is_compiling():
        # The compiler would recompute both ends at every use, and each ``where`` uses its arguments twice: a hundred
        # thousand operations. It stores the inputs of ``as_strided``.
        low, high = (end.as_strided(end.shape, end.stride()) for end in ends)
        return low, high
    return ends


_uniform_range = operator(
    "uniform_range(Tensor min_range, Tensor max_range, int num_bits, bool signed, float min_threshold)"
    " -> (Tensor, Tensor)",
    _uniform_forward,
    lambda ctx, inputs, output: None,
    lambda ctx, grad_min, grad_max: (grad_min, grad_max, None, None, None),
    fake=lambda low, high, *_: (torch.empty_like(low), torch.empty_like(high)),
)
