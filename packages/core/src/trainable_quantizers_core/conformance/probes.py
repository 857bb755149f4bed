"""Inputs that expose faults: every level, tie and range end with their float neighbours, and unusual numbers."""

from __future__ import annotations

import numpy as np

from trainable_quantizers_core.conformance.cases import SHAPE, Case
from trainable_quantizers_core.conformance.oracle.effective_range import Range, effective_range

HUGE = 1e30
ODD = (0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1e-30, -1e-30, 1e6, -1e6, HUGE, -HUGE, 3.4e38, -3.4e38)
LEVELS = 40
"""Above twice as many levels, a sample of them: the lowest, the highest and those around zero."""


def probe_inputs(case: Case, values: dict[str, np.ndarray], infinite: bool = False, seed: int = 0) -> np.ndarray:
    """Float32 inputs for a case: shape (samples, 5, 3) for activations, one of ``SHAPE``'s kind for weights.

    A weight's axis without channels is made longer, so that each channel sees every probe of its own range.
    """
    ranges = effective_range(case, values)
    between = _midpoints(values["table"], ranges) if case.tabled else np.zeros(0)
    rows = [_probes(ranges, channel, between, infinite, seed + channel) for channel in range(ranges.step.size)]
    if case.axis is None:
        row = rows[0]
        pad = -row.size % 15
        return np.concatenate([row, row[:pad]]).reshape(-1, 5, 3)
    length = max(map(len, rows))
    longer = 0 if case.axis % len(SHAPE) else 1
    other = SHAPE[3 - longer - case.axis % len(SHAPE)]
    length += -length % other
    table = np.stack([np.resize(row, length) for row in rows])  # (channels, probes)
    block = table.reshape(len(rows), length // other, other)
    return np.ascontiguousarray(np.moveaxis(block, 0, case.axis))


def _midpoints(table: np.ndarray, ranges: Range) -> np.ndarray:
    """The levels of a table, and where it turns from one to the next."""
    entries = np.sort(np.rint(np.clip(table * (ranges.highest + 1.0), ranges.lowest, ranges.highest)))
    return np.concatenate([entries, (entries[1:] + entries[:-1]) / 2])


def _probes(ranges: Range, channel: int, further: np.ndarray, infinite: bool, seed: int) -> np.ndarray:
    step, zero = np.float32(ranges.step[channel]), int(ranges.zero_point[channel])
    first, last = ranges.lowest - zero, ranges.highest - zero
    levels = np.arange(first - 2, last + 3)
    if levels.size > 2 * LEVELS:
        levels = np.unique(np.concatenate([levels[:LEVELS], np.arange(-8, 9), levels[-LEVELS:]]))
    ends = np.array([ranges.low[channel], ranges.high[channel]], np.float32)
    exact = np.concatenate([levels * step, (levels + np.float32(0.5)) * step, further * step, ends]).astype(np.float32)
    exact = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))])
    width, centre = float(ends[1] - ends[0]), float(ends.mean())
    normal = np.random.default_rng(seed).normal(centre, width, 200)
    extreme = (np.inf, -np.inf) if infinite else ()
    return np.concatenate([exact, normal, ODD, extreme]).astype(np.float32)
