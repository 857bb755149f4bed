"""The search for the range with the least squared error, among those that a quantization method allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import LARGEST_THRESHOLD, MIN_THRESHOLD, POWERS
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_core.quantizer.table import look_up

_PIECE = 2**16  # weights that are quantized together: they stay in the cache

# Factors by which the search changes a range. Powers of two move by whole exponents.
_EXPONENTS = 2.0 ** np.arange(1, -11, -1)
_COARSE = 2.0 ** (np.arange(2, -21, -1) / 2)
_FINE = 2.0 ** (np.arange(-7, 8) / 16)
# Which parameters are multiplied by which factors; each move starts where the one before arrived.
_MOVES: dict[QuantizationMethod, list[tuple[list[int], np.ndarray]]] = {
    QuantizationMethod.POWER_OF_TWO: [([1], _EXPONENTS)],
    QuantizationMethod.LUT_POT_QUANTIZER: [([1], _EXPONENTS)],
    QuantizationMethod.SYMMETRIC: [([1], _COARSE), ([1], _FINE)],
    QuantizationMethod.LUT_SYM_QUANTIZER: [([1], _COARSE), ([1], _FINE)],
    QuantizationMethod.UNIFORM: [
        ([1, 1], _COARSE),
        ([0, 1], _COARSE),
        ([1, 0], _COARSE),
        ([0, 1], _FINE),
        ([1, 0], _FINE),
    ],
}


@dataclass(frozen=True)
class Points:
    """Values over which errors are summed.

    Args:
        points: Of shape (channels, any).
        counts: How many values each point stands for, of shape (any,); None is one each.
    """

    points: np.ndarray
    counts: np.ndarray | None


@dataclass(frozen=True)
class ChannelData(Points):
    """The data of a tensor that calibration needs, one entry or row per channel.

    Args:
        points: Values of shape (channels, any), over which errors are summed.
        counts: How many values each point stands for, of shape (any,); None is one each.
        low: Smallest value.
        high: Largest value.
        mean_magnitude: mean|x|.
        quantile: ``quantile(fraction, magnitudes)``, of the values or of their magnitudes.
    """

    low: np.ndarray
    high: np.ndarray
    mean_magnitude: np.ndarray
    quantile: Callable[[float, bool], np.ndarray]


@dataclass(frozen=True)
class Ranges:
    """The ranges of a method. Their parameters are arrays of shape (1 or 2, channels): threshold, or both ends.

    Args:
        method: The method.
        grid: The levels; those that entries can have, where the method quantizes to a table.
        table: The levels of a table, ascending; None for all levels of the grid.

    Examples:
        >>> Ranges(QuantizationMethod.POWER_OF_TWO, Grid(4, True)).around(np.float32([-3.0]), np.float32([2.0]))
        array([[4.]], dtype=float32)
    """

    method: QuantizationMethod
    grid: Grid
    table: np.ndarray | None = None

    @property
    def uniform(self) -> bool:
        """Whether the parameters are the two ends."""
        return self.method is QuantizationMethod.UNIFORM

    def effective(self, params: Any) -> np.ndarray:
        """The parameters as they take effect, save for the shift that puts zero of a uniform range on a level."""
        params = np.clip(params, -LARGEST_THRESHOLD, LARGEST_THRESHOLD).astype(np.float32)
        if self.uniform:
            low, high = np.minimum(params[0], 0), np.maximum(params[1], 0)
            return np.stack([low, np.maximum(high, low + np.float32(MIN_THRESHOLD))])
        return rules.effective_threshold(NUMPY_OPS, params, MIN_THRESHOLD, self.method in POWERS)

    def around(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The smallest range that holds [low, high]."""
        return self.effective([low, high] if self.uniform else [np.maximum(-low, high)])

    def squared_error(self, params: np.ndarray, data: Points) -> np.ndarray:
        """Σ (y - x)² per channel, rounding and clipping taken together."""
        if self.uniform:
            step, zero_point = rules.uniform_grid(NUMPY_OPS, params[0], params[1], self.grid, MIN_THRESHOLD)
        else:
            step, zero_point = params[0] / np.float32(self.grid.steps_per_threshold), np.zeros_like(params[0])
        step, zero_point = step[:, None], zero_point[:, None]
        channels, size = data.points.shape
        columns = max(1, _PIECE // channels)
        total = np.zeros(channels)
        with np.errstate(over="ignore"):  # beyond 2^63 every square is infinite, and the search ends where it began
            for start in range(0, size, columns):
                piece = slice(start, start + columns)
                x = data.points[:, piece]
                error = self._quantized(x, step, zero_point)
                error -= x
                error *= error
                total += error.sum(axis=1, dtype=np.float64) if data.counts is None else error @ data.counts[piece]
        return total

    def _quantized(self, x: np.ndarray, step: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        if self.table is not None:
            threshold = step * np.float32(self.grid.steps_per_threshold)
            return look_up(NUMPY_OPS, x, threshold, self.table, self.grid)  # type: ignore[no-any-return]
        y = x / step
        np.rint(y, out=y)
        y += zero_point
        np.clip(y, self.grid.lowest, self.grid.highest, out=y)
        y -= zero_point
        y *= step
        return y


def search(params: np.ndarray, data: Points, ranges: Ranges) -> np.ndarray:
    """The parameters with the least squared error among ``params`` and those that the moves reach."""
    best, least = params.copy(), ranges.squared_error(params, data)
    for moved, factors in _MOVES[ranges.method]:
        start = best.copy()
        for factor in factors:
            candidate = ranges.effective(start * np.where(moved, factor, 1.0)[:, None])
            error = ranges.squared_error(candidate, data)
            better = error < least
            best[:, better], least[better] = candidate[:, better], error[better]
    return best
