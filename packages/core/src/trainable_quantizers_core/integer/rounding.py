"""Rounding of quotients and floats, and requantization, with a rule for ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.lattice import along, is_power_of_two


def divide_rounded(numerator: np.ndarray, denominator: Any, rule: RoundingRule) -> np.ndarray:
    """The integers nearest to numerator/denominator; ties as the rule says.

    Examples:
        >>> halves = np.array([-3, -1, 1, 3])
        >>> [divide_rounded(halves, 2, rule).tolist() for rule in RoundingRule]
        [[-2, 0, 0, 2], [-1, 0, 1, 2], [-2, -1, 1, 2]]
    """
    quotient, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    up = twice > denominator
    tie = twice == denominator
    if rule is RoundingRule.HALF_EVEN:
        up |= tie & (quotient % 2 == 1)
    elif rule is RoundingRule.HALF_UP:
        up |= tie
    else:
        up |= tie & (quotient >= 0)
    return quotient + up  # type: ignore[no-any-return]


def requantize(
    x: np.ndarray, shift: Any, axis: int | None, divisor: int, low: int, high: int, rule: RoundingRule
) -> np.ndarray:
    """clip(round(x·2^-shift / divisor), low, high), with one shift or one per channel."""
    shift = along(shift, axis, x.ndim)
    numerator = x << np.maximum(-shift, 0)
    denominator = np.left_shift(divisor, np.maximum(shift, 0))
    return np.clip(divide_rounded(numerator, denominator, rule), low, high)


def to_integers(
    x: np.ndarray, step: float, low: int, high: int, rule: RoundingRule, from_lowest: bool = False
) -> np.ndarray:
    """clip(round(x/step), low, high) of floats, as the quantizers of the frameworks compute it in float32.

    Args:
        x: The floats.
        step: Δ.
        low: The lowest level.
        high: The highest.
        rule: How ties are rounded.
        from_lowest: Whether levels are counted from the lowest, as in TensorFlow: next to a tie the difference to it
            may round to one, which goes up.

    Examples:
        >>> x = np.nextafter(np.float32([0.5]), np.float32(0))
        >>> [to_integers(x, 1.0, -128, 127, RoundingRule.HALF_UP, each).item() for each in (False, True)]
        [0, 1]
    """
    with np.errstate(over="ignore"):  # infinity is clipped
        scaled = np.asarray(x, np.float32) * (np.float32(1) / np.float32(step))
    levels = round_floats(scaled, rule)
    if from_lowest:
        lowest, highest = (np.float32(end) * np.float32(step) for end in (low, high))
        inside = np.clip(np.nan_to_num(np.asarray(x, np.float32), nan=0.0), lowest, highest) - lowest
        counted = np.floor(inside / np.float32(step) + np.float32(low) + np.float32(0.5))
        levels = np.where(is_power_of_two(step) & (scaled - np.floor(scaled) == 0.5), levels, counted)
    return np.clip(levels, low, high).astype(np.int64)


def round_floats(x: np.ndarray, rule: RoundingRule) -> np.ndarray:
    """The nearest whole numbers; NaN becomes 0.

    Examples:
        >>> [round_floats(np.float32([-1.5, -0.5, 0.5]), rule).tolist() for rule in RoundingRule]
        [[-2.0, -0.0, 0.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 1.0]]
    """
    wide = np.nan_to_num(np.asarray(x, np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if rule is RoundingRule.HALF_EVEN:
        return np.rint(wide)  # type: ignore[no-any-return]
    if rule is RoundingRule.HALF_UP:
        return np.floor(wide + 0.5)  # type: ignore[no-any-return]
    return np.copysign(np.floor(np.abs(wide) + 0.5), wide)  # type: ignore[no-any-return]
