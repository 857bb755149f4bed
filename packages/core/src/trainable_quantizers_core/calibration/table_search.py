"""Initial look-up tables, and thresholds that fit them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainable_quantizers_core.calibration.range_search import Points, Ranges, search
from trainable_quantizers_core.quantizer.grid import Grid

_ROUNDS = 4
_ITERATIONS = 100
_SAMPLE = 2**18  # values that decide about a table


def fit_table(
    params: np.ndarray, data: Points, ranges: Ranges, num_bits: int, searched: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds, of shape (1, channels), and the 2^b levels of a table, ascending.

    The table is that of Lloyd's algorithm for the values of all channels, each as a multiple of its step, so that
    Σ (y - x)² is least. Thresholds are then searched for that table, and a table for those, a few times.

    Args:
        params: Thresholds that suit the 8 bits of an entry.
        data: The values; a sample of them if there are many.
        ranges: The thresholds that the method can have, and the grid of the entries.
        num_bits: b.
        searched: Whether thresholds may move.
    """
    data = _sampled(data)
    levels = _lloyd(params, data, ranges.grid, even_table(num_bits, ranges.grid))
    for _ in range(_ROUNDS if searched else 0):
        params = search(params, data, replace(ranges, table=levels))
        levels = _lloyd(params, data, ranges.grid, levels)
    return params, levels


def even_table(num_bits: int, grid: Grid) -> np.ndarray:
    """The levels of ``num_bits`` bits among those of ``grid``, used if there is nothing to fit.

    Examples:
        >>> even_table(2, Grid(8, signed=True)).tolist()
        [-128.0, -64.0, 0.0, 64.0]
    """
    return np.arange(grid.lowest, grid.highest, 2 ** (grid.num_bits - num_bits)).astype(np.float32)


def _sampled(data: Points) -> Points:
    """Some columns of the values, drawn with a fixed seed: every n-th could be the same place in a kernel."""
    channels, size = data.points.shape
    wanted = max(1, _SAMPLE // channels)
    if data.counts is not None or size <= wanted:
        return data
    columns = np.random.default_rng(0).choice(size, wanted, replace=False)
    return replace(data, points=data.points[:, columns])


def _lloyd(params: np.ndarray, data: Points, grid: Grid, levels: np.ndarray) -> np.ndarray:
    """The best of three local optima: from the given levels, from evenly spaced entries, and from quantiles."""
    count = len(levels)
    step = params[0][:, None].astype(np.float64) / grid.steps_per_threshold
    weights = np.broadcast_to(step**2 * (1.0 if data.counts is None else data.counts), data.points.shape).reshape(-1)
    values = np.clip(data.points / step, grid.lowest, grid.highest).reshape(-1)
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    mass, moment = (np.concatenate([[0.0], np.cumsum(each)]) for each in (weights, weights * values))
    spread = np.interp((np.arange(count) + 0.5) / count, mass[1:] / mass[-1], values)
    best, least = levels, np.inf
    for entries in (levels, np.linspace(values[0], values[-1], count), spread):
        for _ in range(_ITERATIONS):
            ends = np.concatenate([[0], np.searchsorted(values, (entries[1:] + entries[:-1]) / 2), [len(values)]])
            held = np.diff(mass[ends])
            moved = np.where(held > 0, np.diff(moment[ends]) / np.where(held > 0, held, 1.0), entries)
            if np.array_equal(moved, entries):
                break
            entries = moved
        levels = np.clip(np.rint(np.sort(entries)), grid.lowest, grid.highest)
        nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]
        error = float(weights @ (nearest - values) ** 2)
        if error < least:
            best, least = levels, error
    return best.astype(np.float32)
