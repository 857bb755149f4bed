"""Quantization to the entries of a look-up table (contract section 4).

Written once for numpy, torch and TensorFlow, as ``grid`` is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mct_quantizers.common.constants import LUT_VALUES_BITWIDTH

from trainable_quantizers_core.quantizer.array_ops import ArrayOps
from trainable_quantizers_core.quantizer.grid import Grid

MAX_TABLE_BITS = LUT_VALUES_BITWIDTH - 1
"""A table of more bits would hold every level there is."""


def table_grid(signed: bool) -> Grid:
    """The levels that entries of a table can have.

    Examples:
        >>> table_grid(True).lowest, table_grid(True).highest, table_grid(False).highest
        (-128, 127, 255)
    """
    return Grid(LUT_VALUES_BITWIDTH, signed)


def effective_table(ops: ArrayOps, table: Any, grid: Grid) -> Any:
    """The levels of fractions of the threshold, in ascending order: within the grid, and finite for any fractions.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> effective_table(NUMPY_OPS, np.float32([0.5, 9.0, -0.25, np.nan]), table_grid(True)).tolist()
        [-128.0, -32.0, 64.0, 127.0]
    """
    return _ordered(ops, table, grid)[0]


def _ordered(ops: ArrayOps, table: Any, grid: Grid) -> tuple[Any, Any]:
    """The levels, and the positions in the table that they come from."""
    steps = grid.steps_per_threshold
    table = ops.where(table > grid.lowest / steps, table, grid.lowest / steps)  # false for NaN
    table = ops.where(table < grid.highest / steps, table, grid.highest / steps)
    order = ops.order(table)
    levels = ops.round(ops.take(table, order) * steps)
    return ops.where(levels == 0, 0.0, levels), order  # integers know no -0


def table_gradient(ops: ArrayOps, table: Any, gradient: Any, grid: Grid) -> Any:
    """dL/dtable from that of the effective levels, straight through their rounding.

    An entry beyond the grid gets only a gradient that brings it back: a descent step moves it against its gradient.
    """
    steps = grid.steps_per_threshold
    _, order = _ordered(ops, table, grid)
    gradient = ops.take(gradient, ops.order(order)) * steps
    passes = ((table >= grid.lowest / steps) | (gradient < 0)) & ((table <= grid.highest / steps) | (gradient > 0))
    return ops.where(passes, gradient, 0.0)


class _Assigned(NamedTuple):
    """Where in a table values lie: clipped levels v, their two neighbours, and whether the upper is the nearer one."""

    v: Any
    lower: Any
    upper: Any
    rises: Any
    level: Any


def _assigned(ops: ArrayOps, x: Any, threshold: Any, levels: Any, grid: Grid) -> _Assigned:
    v = x / threshold * grid.steps_per_threshold
    v = ops.where(v > grid.lowest, v, float(grid.lowest))  # false for NaN
    v = ops.where(v < grid.highest, v, float(grid.highest))
    lower, upper = ops.neighbours(levels, v)
    below, above = ops.take(levels, lower), ops.take(levels, upper)
    rises = above - v < v - below
    return _Assigned(v, lower, upper, rises, ops.where(rises, above, below))


def look_up(ops: ArrayOps, x: Any, threshold: Any, levels: Any, grid: Grid) -> Any:
    """The look-up y = c/2^(8-s)·t for the table's level c nearest to clip(x/t·2^(8-s)); the lower of two.

    Args:
        ops: The array library.
        x: float32 values.
        threshold: The effective threshold, shaped for broadcasting.
        levels: The result of ``effective_table``.
        grid: The result of ``table_grid``.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> x, levels = np.float32([-3.0, 0.1, 0.75, 1.4]), np.float32([-64.0, 0.0, 96.0])
        >>> look_up(NUMPY_OPS, x, np.float32(2.0), levels, table_grid(True)).tolist()
        [-1.0, 0.0, 0.0, 1.5]
    """
    return _assigned(ops, x, threshold, levels, grid).level / grid.steps_per_threshold * threshold


def look_up_gradients(
    ops: ArrayOps, g: Any, x: Any, threshold: Any, levels: Any, grid: Grid, shared: Any
) -> tuple[Any, Any, Any]:
    """(dL/dx, dL/dthreshold, dL/dlevels) of ``look_up``, without r.

    - dL/dx = g where lowest·t/2^(8-s) <= x <= highest·t/2^(8-s), else 0
    - dL/dthreshold = Σ g·(c - v inside, c outside)/2^(8-s), over the axes ``shared``, all if None
    - dL/dlevels[k] = Σ g·t/2^(8-s) over the x that take entry k
    """
    steps = grid.steps_per_threshold
    found = _assigned(ops, x, threshold, levels, grid)
    step = threshold / steps
    inside = (x >= grid.lowest * step) & (x <= grid.highest * step)
    error = found.level - ops.where(inside, found.v, 0.0)
    terms = g * step
    count = levels.shape[0]
    of_levels = ops.total(ops.where(found.rises, 0.0, terms), found.lower, count)
    of_levels = of_levels + ops.total(ops.where(found.rises, terms, 0.0), found.upper, count)
    return ops.where(inside, g, 0.0), ops.sum(g * error, shared) / steps, of_levels
