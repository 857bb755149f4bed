"""Rescaling: multiplies integers to bring them to a grid whose step is no power of two apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.integer.lattice import along
from trainable_quantizers_core.integer.rounding import divide_rounded, round_floats

_MULTIPLIER_BITS = 31
_PRODUCT_BITS = 62
_LARGEST_FACTOR = 2.0**30  # of which every integer but zero leaves a grid of 16 bits


def multiplier(factor: Any, bits: int, rule: RescaleRule) -> tuple[np.ndarray, ...]:
    """The factors for ``rescaled``: numbers in float32; or integers m and shifts n, for factors m·2^-n.

    m has 31 bits, fewer where the product with integers of ``bits`` bits would need more than 63.

    Examples:
        >>> multiplier(0.75, 24, RescaleRule.FLOAT32)
        (array(0.75, dtype=float32),)
        >>> multiplier(0.75, 24, RescaleRule.FIXED_POINT)
        (array(1610612736), array(31))
    """
    factor = np.minimum(np.asarray(factor, np.float64), _LARGEST_FACTOR)
    if rule is RescaleRule.FLOAT32:
        return (np.asarray(factor, np.float32),)
    wanted = min(_MULTIPLIER_BITS, _PRODUCT_BITS + 1 - bits)
    shift = np.clip(wanted - np.frexp(factor)[1].astype(np.int64), 0, _PRODUCT_BITS)
    return np.asarray(np.rint(np.ldexp(factor, shift)), np.int64), np.asarray(shift)


def rescaled(
    x: np.ndarray,
    factor: np.ndarray,
    shift: np.ndarray | None = None,
    *,
    axis: int | None,
    low: int,
    high: int,
    rule: RoundingRule,
) -> np.ndarray:
    """clip(round(x·factor·2^-shift), low, high): of integers exactly, of a float32 factor with one product in float32.

    Args:
        x: Integers.
        factor: One, or one per channel: what ``multiplier`` gives.
        shift: Likewise; None for a factor in float32.
        axis: Of the channels.
        low: The lowest level.
        high: The highest.
        rule: How ties are rounded.

    Examples:
        >>> x, options = np.array([2, 6, 900]), {"axis": None, "low": -8, "high": 7, "rule": RoundingRule.HALF_UP}
        >>> [rescaled(x, *multiplier(0.75, 24, rule), **options).tolist() for rule in RescaleRule]
        [[2, 5, 7], [2, 5, 7]]
    """
    factor = along(factor, axis, x.ndim)
    if shift is None:
        levels = round_floats(x.astype(np.float32) * factor, rule)
    else:
        levels = divide_rounded(x * factor, np.left_shift(1, along(shift, axis, x.ndim)), rule)
    return np.clip(levels, low, high).astype(np.int64)
