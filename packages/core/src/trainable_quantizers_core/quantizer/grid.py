"""The integer grid, and the effective range that raw parameters give (contract sections 1 and 2).

Everything here is written once for numpy, torch and TensorFlow: a framework hands in its ``ArrayOps``
and adds nothing but the gradient. All arithmetic is float32, operation by operation, so that the three
arrive at the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainable_quantizers_core.quantizer.array_ops import ArrayOps

MIN_BITS = 2
MAX_BITS = 16


@dataclass(frozen=True)
class Grid:
    """The levels of a quantizer, before any scale.

    Args:
        num_bits: 2..16.
        signed: Whether there are levels below zero.

    Examples:
        >>> Grid(4, signed=True).lowest, Grid(4, signed=True).highest, Grid(4, signed=False).highest
        (-8, 7, 15)
    """

    num_bits: int
    signed: bool

    @property
    def lowest(self) -> int:
        """The lowest level."""
        return -(2 ** (self.num_bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The highest level."""
        return self.lowest + self.num_steps

    @property
    def num_steps(self) -> int:
        """Steps from the lowest level to the highest."""
        return 2**self.num_bits - 1

    @property
    def steps_per_threshold(self) -> int:
        """Steps from zero to the threshold, which is one step above the highest level."""
        return self.highest + 1


def power(ops: ArrayOps, exponent: Any) -> Any:
    """2^v with 16 significant bits, the same in every library; within 2^-126..2^127 for any v.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> power(NUMPY_OPS, np.float32([-3, 0.5, 1e9, np.nan])).tolist() == [0.125, 1.414215087890625, 2**127, 2**-126]
        True
    """
    exponent = ops.where(exponent > -126, exponent, -126.0)  # false for NaN
    exponent = ops.where(exponent < 127, exponent, 127.0)
    return ops.from_bits((ops.bits(ops.exp2(exponent)) + 0x80) & ~0xFF)


def effective_threshold(
    ops: ArrayOps, threshold: Any, min_threshold: float, power_of_two: bool, log2: bool = False
) -> Any:
    """t_eff = max(t, min_threshold), rounded up to a power of two on request; finite for any t.

    With ``log2``, ``threshold`` is v and t = 2^v, or 2^ceil(v) of powers of two.

    The power of two comes from the bits of the float (a logarithm is off by one next to powers of two):
    adding all mantissa bits carries into the exponent unless the mantissa is zero.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> effective_threshold(NUMPY_OPS, np.float32([-1, 3, 4, np.nan]), 0.25, power_of_two=True).tolist()
        [0.25, 4.0, 4.0, 0.25]
    """
    if log2:
        nearest = ops.round(threshold)
        above = ops.where(nearest < threshold, nearest + 1, nearest)
        threshold = power(ops, above if power_of_two else threshold)
    threshold = ops.where(threshold > min_threshold, threshold, min_threshold)  # false for NaN
    largest = 2.0**126  # LARGEST_THRESHOLD, but torch.compile(dynamic=True) takes a global for a variable
    threshold = ops.where(threshold < largest, threshold, largest)
    if power_of_two:
        mantissa = 0x007FFFFF
        threshold = ops.from_bits((ops.bits(threshold) + mantissa) & ~mantissa)
    return threshold


def symmetric_range(threshold: Any, grid: Grid) -> tuple[Any, Any]:
    """(lowest, highest) times the step t / 2^(b-s); plain arithmetic, so autograd passes through it.

    Examples:
        >>> symmetric_range(2.0, Grid(2, signed=True))
        (-2.0, 1.0)
    """
    step = threshold / grid.steps_per_threshold
    return grid.lowest * step, grid.highest * step


def effective_symmetric_range(
    ops: ArrayOps, threshold: Any, grid: Grid, min_threshold: float, power_of_two: bool, log2: bool = False
) -> tuple[Any, Any]:
    """The range of the effective threshold."""
    return symmetric_range(effective_threshold(ops, threshold, min_threshold, power_of_two, log2), grid)


def threshold_gradient(ops: ArrayOps, threshold: Any, grad_min: Any, grad_max: Any, grid: Grid, *how: Any) -> Any:
    """dL/dt from dL/dmin and dL/dmax of the effective symmetric range, whose ends are multiples of t_eff."""
    gradient = (grid.lowest * grad_min + grid.highest * grad_max) / grid.steps_per_threshold
    return through_threshold(ops, threshold, gradient, *how)


def through_threshold(
    ops: ArrayOps, threshold: Any, gradient: Any, min_threshold: float, power_of_two: bool, log2: bool = False
) -> Any:
    """dL/dt from dL/dt_eff: dt_eff/dt = t_eff/t, straight through the rounding; with ``log2``, dt_eff/dv = t_eff·ln 2.

    Below ``min_threshold`` nothing pushes t further down: a descent step moves t against its gradient, so a positive
    gradient would lower t.
    """
    slope = effective_threshold(ops, threshold, min_threshold, power_of_two, log2)
    if log2:
        threshold = power(ops, threshold)
        slope = slope * 0.6931472
    else:
        slope = slope / ops.where(threshold > min_threshold, threshold, min_threshold)
    passes = (threshold >= min_threshold) | (gradient < 0)
    return ops.where(passes, gradient * slope, 0.0)


def uniform_grid(ops: ArrayOps, min_range: Any, max_range: Any, grid: Grid, min_threshold: float) -> tuple[Any, Any]:
    """(step, zero_point) of the range, ordered, at least ``min_threshold`` wide, and with zero on a level.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> step, zero_point = uniform_grid(NUMPY_OPS, np.float32(-1.1), np.float32(2.0), Grid(2, False), 2**-16)
        >>> round(float(step), 6), float(zero_point)
        (1.033333, 1.0)
    """
    largest = 2.0**126
    min_range = ops.where(min_range < largest, min_range, 0.0)  # every comparison is false for NaN
    min_range = ops.where(min_range > -largest, min_range, -largest)
    narrowest = min_range + min_threshold
    max_range = ops.where(max_range > narrowest, max_range, narrowest)
    max_range = ops.where(max_range < largest, max_range, largest)
    min_range = ops.where(min_range < 0, min_range, 0.0)
    max_range = ops.where(max_range > 0, max_range, 0.0)
    step = range_step(ops, min_range, max_range, grid)
    zero_point = ops.round(-min_range / step)
    return step, ops.where(zero_point < grid.num_steps, zero_point, float(grid.num_steps))


def uniform_range(step: Any, zero_point: Any, grid: Grid) -> tuple[Any, Any]:
    """(min', max') of a step and the level of zero.

    Examples:
        >>> uniform_range(0.5, 1.0, Grid(2, signed=False))
        (-0.5, 1.0)
    """
    return (0 - zero_point) * step, (grid.num_steps - zero_point) * step


def effective_uniform_range(
    ops: ArrayOps, min_range: Any, max_range: Any, grid: Grid, min_threshold: float
) -> tuple[Any, Any]:
    """(min', max'): ordered, wide enough, and with zero on a level."""
    return uniform_range(*uniform_grid(ops, min_range, max_range, grid, min_threshold), grid)


def range_step(ops: ArrayOps, min_range: Any, max_range: Any, grid: Grid) -> Any:
    """The step of an effective range: what TensorFlow's kernel computes, and so what both frameworks use."""
    return ops.divide(max_range - min_range, float(grid.num_steps))


def symmetric_step(
    ops: ArrayOps, threshold: Any, grid: Grid, min_threshold: float, power_of_two: bool, log2: bool = False
) -> Any:
    """The step of the effective range of a threshold."""
    return range_step(ops, *effective_symmetric_range(ops, threshold, grid, min_threshold, power_of_two, log2), grid)


def uniform_step(ops: ArrayOps, min_range: Any, max_range: Any, grid: Grid, min_threshold: float) -> Any:
    """The step of the effective range of two ends."""
    return range_step(ops, *effective_uniform_range(ops, min_range, max_range, grid, min_threshold), grid)


def range_zero_point(ops: ArrayOps, min_range: Any, step: Any, grid: Grid) -> Any:
    """The level of zero, less the level of 0 in ``grid``: 0 for a symmetric range."""
    return grid.lowest - ops.round(min_range / step)


def grid_ends(ops: ArrayOps, min_range: Any, max_range: Any, grid: Grid) -> tuple[Any, Any]:
    """The values of the lowest and the highest level, as the forward computes them.

    They differ from the ends of the range by an ulp at most. With them, what the quantizer puts out lies inside.
    """
    step = range_step(ops, min_range, max_range, grid)
    zero_point = range_zero_point(ops, min_range, step, grid)
    return (grid.lowest - zero_point) * step, (grid.highest - zero_point) * step


def range_gradients(
    ops: ArrayOps,
    g: Any,
    x: Any,
    low: Any,
    high: Any,
    num_steps: int,
    shared: list[int],
    of_range: bool,
    from_rounding: bool,
    ewgs: float,
) -> tuple[Any, Any, Any]:
    """(dL/dx, dL/dmin, dL/dmax) of contract section 4 without r; the last two are None unless ``of_range``.

    ``low`` and ``high`` are those of ``grid_ends``. With in = (low <= x <= high) and e = round(v) - v, v = x/step:

    - dL/dx = g·in·(1 - δ·sign(g)·e), where δ is ``ewgs``
    - dL/dmin = Σ g over x < low, and less Σ g·e/(2^b - 1) over in if ``from_rounding``
    - dL/dmax = Σ g over x > high, and plus Σ g·e/(2^b - 1) over in if ``from_rounding``

    The sums run over the axes ``shared``.
    """
    inside = (x >= low) & (x <= high)
    passed = grad_x = ops.where(inside, g, 0.0)
    error = None
    if ewgs or (of_range and from_rounding):
        v = x * (num_steps / (high - low))
        error = ops.where(inside, ops.round(v) - v, 0.0)
    if ewgs:
        grad_x = scaled_by_error(ops, passed, error, ewgs)
    if not of_range:
        return grad_x, None, None
    below = ops.sum(ops.where(x < low, g, 0.0), shared)
    above = ops.sum(ops.where(x > high, g, 0.0), shared)
    if not from_rounding:
        return grad_x, below, above
    moved = ops.sum(passed * error, shared) / num_steps
    return grad_x, below - moved, above + moved


def scaled_by_error(ops: ArrayOps, g: Any, error: Any, ewgs: float) -> Any:
    """EWGS: g·(1 - δ·sign(g)·e), with e = round(v) - v and δ = ``ewgs``.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> g, error = np.float32([1, 1, -1]), np.float32([0.5, -0.5, 0.5])
        >>> scaled_by_error(NUMPY_OPS, g, error, 0.5).tolist()
        [0.75, 1.25, -1.25]
    """
    return g * (1 - ewgs * ops.where(g < 0, -error, error))
