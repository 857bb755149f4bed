"""The array operations that the formulas use, and their numpy implementation; each framework has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArrayOps:
    """The operations of an array library that the formulas need beyond Python's arithmetic.

    Args:
        where: ``where(condition, array_or_number, array_or_number)`` in float32.
        divide: The correctly rounded quotient by a constant, safe from compilers that multiply by its reciprocal.
        round: Rounds halves to even.
        sum: ``sum(array, axes)`` over a list of axes, none of them kept.
        bits: Reads float32 as int32.
        from_bits: Reads int32 as float32.
        exp2: 2^x in float64, rounded to float32.
        order: Positions that sort an array of one axis, equal values in their order.
        take: ``take(array, positions)`` of an array of one axis.
        neighbours: ``neighbours(ascending, array)``: positions of the last value that is not above each, and of the
            next one; both within.
        total: ``total(array, positions, count)``: sums of the values at each of ``count`` positions.
        shortcut: ``shortcut(condition, values, other)``: ``values`` if it holds everywhere, else ``other()``.
            Both give the same where it holds: ``other`` is called where conditions cannot be read, too.
    """

    where: Callable[[Any, Any, Any], Any]
    divide: Callable[[Any, float], Any]
    round: Callable[[Any], Any]
    sum: Callable[[Any, list[int]], Any]
    bits: Callable[[Any], Any]
    from_bits: Callable[[Any], Any]
    exp2: Callable[[Any], Any]
    order: Callable[[Any], Any]
    take: Callable[[Any, Any], Any]
    neighbours: Callable[[Any, Any], tuple[Any, Any]]
    total: Callable[[Any, Any, int], Any]
    shortcut: Callable[[Any, Any, Callable[[], Any]], Any]


def _neighbours(ascending: np.ndarray, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower = np.maximum(np.searchsorted(ascending, array, side="right") - 1, 0)
    return lower, np.minimum(lower + 1, len(ascending) - 1)


_TABLES: dict[str, Any] = {
    "order": lambda array: np.argsort(array, kind="stable"),
    "take": np.take,
    "neighbours": _neighbours,
    "total": lambda array, positions, count: np.bincount(np.ravel(positions), np.ravel(array), count),
    "shortcut": lambda condition, values, other: values if np.all(condition) else other(),
}

NUMPY_OPS = ArrayOps(
    where=lambda condition, one, other: np.where(condition, one, other).astype(np.float32, copy=False),
    divide=np.divide,
    round=np.rint,
    sum=lambda array, axes: array.sum(tuple(axes)),
    bits=lambda array: array.view(np.int32),
    from_bits=lambda array: array.astype(np.int32).view(np.float32),
    exp2=lambda array: np.exp2(array, dtype=np.float64).astype(np.float32),
    **_TABLES,
)
"""For arrays of at least one axis."""

NUMBER_OPS = ArrayOps(
    where=lambda condition, one, other: np.float32(one if condition else other),
    divide=lambda number, divisor: number / np.float32(divisor),
    round=np.rint,
    sum=lambda array, axes: array.sum(tuple(axes)),
    bits=lambda number: number.view(np.int32),
    from_bits=lambda number: number.view(np.float32),
    exp2=lambda number: np.float32(np.exp2(np.float64(number))),
    **_TABLES,
)
"""For single numbers (``np.float32``), at a fifth of the time of arrays; ``numbers_stay_float32`` must hold."""

numbers_stay_float32 = (np.float32(1) * 1.0).dtype == np.float32  # numpy 1 turns them into float64
