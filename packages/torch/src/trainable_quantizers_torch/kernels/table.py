"""Quantization to the entries of a look-up table instead of evenly spaced levels (contract section 4)."""

from __future__ import annotations

from typing import Any

import torch
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer import table as tables
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_torch.kernels.effective import TORCH_OPS, follow
from trainable_quantizers_torch.kernels.operator import operator


def effective_threshold(
    threshold: torch.Tensor, min_threshold: float, power_of_two: bool, log2: bool = False
) -> torch.Tensor:
    """t_eff = max(t, min_threshold), as a power of two on request; dt_eff/dt = t_eff/t, and no push below the minimum.

    With ``log2``, ``threshold`` is v = log2 t, and dt_eff/dv = t_eff·ln 2.

    Examples:
        >>> effective_threshold(torch.tensor([0.7, -1.0]), 0.25, power_of_two=True).tolist()
        [1.0, 0.25]
    """
    return _effective_threshold(threshold.float(), min_threshold, power_of_two, log2)


def effective_table(table: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Integer levels of fractions of the threshold, in ascending order, with a straight-through gradient.

    Examples:
        >>> effective_table(torch.tensor([0.5, -0.25]), tables.table_grid(True)).tolist()
        [-32.0, 64.0]
    """
    return _effective_table(table.float(), grid.num_bits, grid.signed)


def look_up(
    x: torch.Tensor,
    threshold: torch.Tensor,
    levels: torch.Tensor,
    grid: Grid,
    channel_axis: int | None = None,
    threshold_scale: float = 1.0,
    table_scale: float = 1.0,
) -> torch.Tensor:
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
        >>> levels = torch.tensor([-64.0, 0.0, 96.0])
        >>> look_up(torch.tensor([-3.0, 0.1, 1.4]), torch.tensor(2.0), levels, tables.table_grid(True)).tolist()
        [-1.0, 0.0, 1.5]
    """
    return _look_up(x, threshold, levels, grid.num_bits, grid.signed, channel_axis, threshold_scale, table_scale)


def _keep_first(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensor, *ctx.how = inputs
    ctx.save_for_backward(tensor)


def _threshold_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return follow(rules.through_threshold, (*ctx.saved_tensors, gradient), *ctx.how), None, None, None


_effective_threshold = operator(
    "effective_threshold(Tensor threshold, float min_threshold, bool power_of_two, bool log2) -> Tensor",
    lambda threshold, *how: follow(rules.effective_threshold, (threshold,), *how),
    _keep_first,
    _threshold_backward,
    fake=lambda threshold, *_: torch.empty_like(threshold),
)


def _table_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (table,) = ctx.saved_tensors
    return tables.table_gradient(TORCH_OPS, table, gradient, Grid(*ctx.how)), None, None


_effective_table = operator(
    "effective_table(Tensor table, int num_bits, bool signed) -> Tensor",
    lambda table, *grid: tables.effective_table(TORCH_OPS, table, Grid(*grid)),
    _keep_first,
    _table_backward,
    fake=lambda table, *_: torch.empty_like(table),
)


def _along(threshold: torch.Tensor, x: torch.Tensor, channel_axis: int | None) -> torch.Tensor:
    if channel_axis is None:
        return threshold
    return threshold.reshape([-1 if axis == channel_axis else 1 for axis in range(x.ndim)])


def _forward(
    x: torch.Tensor,
    threshold: torch.Tensor,
    levels: torch.Tensor,
    num_bits: int,
    signed: bool,
    channel_axis: int | None,
    *scales: float,
) -> torch.Tensor:
    along = _along(threshold, x, channel_axis)
    return tables.look_up(TORCH_OPS, x.float(), along, levels, Grid(num_bits, signed)).to(x.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, threshold, levels, num_bits, signed, *ctx.how = inputs
    ctx.save_for_backward(x, threshold, levels)
    ctx.grid = Grid(num_bits, signed)


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, threshold, levels = ctx.saved_tensors
    channel_axis, threshold_scale, table_scale = ctx.how
    shared = [axis for axis in range(x.ndim) if axis != channel_axis]
    along = _along(threshold, x, channel_axis)
    of_x, of_threshold, of_levels = tables.look_up_gradients(
        TORCH_OPS, g.float(), x.float(), along, levels, ctx.grid, shared
    )
    return of_x.to(x.dtype), of_threshold * threshold_scale, of_levels * table_scale, None, None, None, None, None


_look_up = operator(
    "look_up(Tensor x, Tensor threshold, Tensor levels, int num_bits, bool signed, int? channel_axis, "
    "float threshold_scale, float table_scale) -> Tensor",
    _forward,
    _keep,
    _backward,
    fake=lambda x, *_: torch.empty_like(x),
)
