"""Rounding of ties by a rule other than the framework's (contract section 1)."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.quantizer.array_ops import ArrayOps

_AWAY = 22


def beside_ties(ops: ArrayOps, x: Any, step: Any, num_bits: int, rule: RoundingRule) -> Any:
    """x, with values half way between two levels moved a little towards the level that the rule chooses.

    x' = x ± Δ·2^(b-22) where x/Δ is a whole number and a half: rounding x' to the nearest level, by any rule for ties,
    rounds x by this one. Exact for steps that are powers of two.

    Args:
        ops: The array library.
        x: float32.
        step: Δ, a power of two.
        num_bits: b.
        rule: How ties are rounded.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> x = np.float32([-1.5, -0.5, 0.25, 0.5, 1.5])
        >>> for rule in RoundingRule:
        ...     print(rule.value, np.rint(beside_ties(NUMPY_OPS, x, 1.0, 8, rule)).astype(int).tolist())
        half_even [-2, 0, 0, 0, 2]
        half_up [-1, 0, 0, 1, 2]
        half_away [-2, -1, 0, 1, 2]
    """
    levels = x / step
    nearest = ops.round(levels)
    off = levels - nearest
    if rule is RoundingRule.HALF_EVEN:
        upwards = off < 0  # the even level, which ``ops.round`` chose, is the upper one
    elif rule is RoundingRule.HALF_UP:
        upwards = levels == levels
    else:
        upwards = levels > 0
    away = step * 2.0 ** (num_bits - _AWAY)
    return x + ops.where(off * off == 0.25, ops.where(upwards, away, -away), 0.0 * away)
