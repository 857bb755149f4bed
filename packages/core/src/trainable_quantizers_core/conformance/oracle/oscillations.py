"""Section 6 of the contract: oscillating weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import channels_of, effective_range


@dataclass(frozen=True)
class Followed:
    """The results of section 6 for a weight whose oscillations are followed.

    Args:
        weight: As the last step left it, level for level where it is frozen.
        flip_rate: How often each element moved back.
        mean_level: The mean of its levels, in steps of the end.
        frozen: Which elements are frozen.
    """

    weight: np.ndarray
    flip_rate: np.ndarray
    mean_level: np.ndarray
    frozen: np.ndarray


def expect_oscillations(
    case: Case, momentum: float, limits: Sequence[float], steps: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]]
) -> Followed:
    """Section 6, Oscillations, for the parameters and the weight after each step, and the limit of flip rates."""
    shape = steps[0][1].shape
    direction, rate, frozen = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    last: Any = None
    mean: Any = None
    unit: Any = None
    for limit, (values, x) in zip(limits, steps, strict=True):
        span = effective_range(case, values).reshaped(channels_of(case, x))
        ends = (span.lowest - span.zero_point, span.highest - span.zero_point)
        level = np.clip(np.rint(np.asarray(x, np.float64) / span.step), *ends)
        last, mean, unit = (level, level, span.step) if last is None else (last, mean, unit)
        regridded = np.broadcast_to(case.power_of_two & (unit != span.step), shape)
        mean = mean * np.where(regridded, unit / span.step, 1.0)
        change = np.where(regridded, 0, np.sign(level - last))
        oscillates = (change != 0) & (change == -direction)
        rate = np.where(frozen, rate, rate + momentum * (oscillates - rate))
        mean = np.where(frozen, mean, mean + momentum * (level - mean))
        now = ~frozen & (rate > limit)
        mean, frozen = np.where(now, np.rint(mean), mean), frozen | now
        direction, last, unit = np.where(change != 0, change, direction), level, span.step
        weight = np.where(frozen, np.rint(mean) * span.step, x)
    return Followed(weight, rate, mean, frozen)
