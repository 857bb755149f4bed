"""Section 2 of the contract: from raw parameters to the effective range.

It alone is computed in float32, one rounded operation at a time, because the contract says so: it decides on which
level zero lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.enums import RoundingRule

EPS = 2.0**-23
"""Relative distance of neighbouring float32 numbers."""


@dataclass(frozen=True)
class Range:
    """An effective range: its ends and step (one per channel, or scalars), and the levels it spans.

    Args:
        low: Lower end, the value of the lowest level in the forward: a float32 number in float64.
        high: Upper end, that of the highest.
        step: Δ.
        zero_point: z.
        lowest: Lowest level.
        highest: Highest level.
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    zero_point: np.ndarray
    lowest: int
    highest: int

    def reshaped(self, shape: tuple[int, ...]) -> Range:
        """The same range, shaped for broadcasting."""
        low, high, step, zero = (array.reshape(shape) for array in (self.low, self.high, self.step, self.zero_point))
        return Range(low, high, step, zero, self.lowest, self.highest)


def effective_range(case: Case, values: Mapping[str, np.ndarray]) -> Range:
    """Section 2: the range that raw parameter ``values`` stand for."""
    f32 = np.float32
    bits, minimum = case.num_bits, f32(case.min_threshold)
    if case.uniform:
        low, high = (np.asarray(values[name], f32).reshape(-1) for name in ("min_range", "max_range"))
        steps = f32(2**bits - 1)
        high = np.maximum(high, low + minimum)
        low, high = np.minimum(low, f32(0)), np.maximum(high, f32(0))
        step = (high - low) / steps
        zero_point = np.minimum(np.rint(-low / step), steps)
        low, high = -zero_point * step, (steps - zero_point) * step
        lowest, highest = 0, 2**bits - 1
    else:
        bits = 8 if case.tabled else bits
        raw = np.asarray(values["threshold"], f32).reshape(-1)
        if case.log2:
            v = raw.astype(np.float64)
            raw = (2.0 ** np.ceil(v) if case.power_of_two else sixteen_bits(2.0**v)).astype(f32)
        threshold = np.maximum(raw, minimum)
        if case.power_of_two:
            mantissa, exponent = np.frexp(threshold)  # threshold = mantissa·2^exponent, 0.5 <= mantissa < 1
            threshold = np.ldexp(f32(1), np.where(mantissa == 0.5, exponent - 1, exponent)).astype(f32)
        lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if case.signed else (0, 2**bits - 1)
        step = threshold / f32(2 ** (bits - case.signed))  # of a table the one that its entries are multiples of
        low, high, zero_point = f32(lowest) * step, f32(highest) * step, np.zeros_like(step)
    forward_step = step if case.tabled else (high - low) / f32(2**bits - 1)
    low, high = (lowest - zero_point) * forward_step, (highest - zero_point) * forward_step
    low, high, step, zero_point = (array.astype(np.float64) for array in (low, high, step, zero_point))
    return Range(low, high, step, zero_point, lowest, highest)


def sixteen_bits(number: np.ndarray) -> np.ndarray:
    """float32, then rounded to 16 significant bits, halves up."""
    mantissa, exponent = np.frexp(number.astype(np.float32))  # 0.5 <= mantissa < 1
    return np.ldexp(np.floor(mantissa.astype(np.float64) * 2**16 + 0.5) / 2**16, exponent)


def tie_level(lower: np.ndarray, rule: RoundingRule) -> np.ndarray:
    """Section 1: the level of what lies half way between the levels ``lower`` and ``lower`` + 1."""
    if rule is RoundingRule.HALF_UP:
        return lower + 1
    return lower + (lower % 2 if rule is RoundingRule.HALF_EVEN else (lower >= 0))


def channels_of(case: Case, x: np.ndarray) -> tuple[int, ...]:
    """The shape in which one number for each channel is broadcast against x."""
    shape = [1] * x.ndim
    if case.axis is not None:
        shape[case.axis] = -1
    return tuple(shape)
