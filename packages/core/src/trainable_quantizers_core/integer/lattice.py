"""Numbers that are integers times a power of two: constants taken apart, and the tensors of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ROOT_BITS = 16
"""Functions of tensors of up to so many bits become tables."""
EXACT_FLOAT_BITS = 24
"""Whole numbers of up to so many bits are exact in float32."""


def on_lattice(values: Any, axis: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(q, e) with values = q·2^e, q integers and e the largest possible, one or one per channel.

    Examples:
        >>> on_lattice(np.float32([0.5, -1.5]))
        (array([ 1, -3]), array(-1))
        >>> on_lattice(np.float32([[0.5, -1.5], [4, 8]]), axis=0)[1]
        array([-1,  2])
    """
    wide = np.asarray(values, np.float64)
    mantissa, exponent = np.frexp(wide)
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest_bit = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    smallest = np.where(whole != 0, exponent - 53 + lowest_bit, np.iinfo(np.int32).max)
    axes = tuple(at for at in range(wide.ndim) if at != axis) if axis is not None else None
    step = smallest.min(axis=axes, initial=np.iinfo(np.int32).max)
    step = np.asarray(np.where(step == np.iinfo(np.int32).max, 0, step), np.int64)
    shape = [-1 if at == axis else 1 for at in range(wide.ndim)] if axis is not None else []
    whole = np.ldexp(wide, -step.reshape(shape)).astype(np.int64)
    return np.asarray(whole), step


def is_power_of_two(step: float) -> bool:
    """Whether a number is a power of two.

    Examples:
        >>> is_power_of_two(0.25), is_power_of_two(0.3)
        (True, False)
    """
    return bool(np.frexp(step)[0] == 0.5)


@dataclass(frozen=True, eq=False)
class Form:
    """A tensor of integers q, which stand for q·2^exponent / divisor.

    Args:
        index: Of the value in the program.
        shape: Of the tensor.
        exponent: One, or one per channel.
        low: The smallest that q can be, likewise.
        high: The largest.
        axis: Of the channels; None for one exponent.
        divisor: What averages leave; 1 elsewhere.
        exact: Whether float32 computes these numbers without rounding.
        tabled: The same numbers as a function of a tensor of few bits, where they are.
    """

    index: int
    shape: tuple[int, ...]
    exponent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    axis: int | None = None
    divisor: int = 1
    exact: bool = True
    tabled: Tabled | None = None

    @property
    def as_table(self) -> Tabled | None:
        """The numbers as a function of a tensor of few bits; its own integers, if they are few."""
        if self.tabled is not None:
            return self.tabled
        few = self.axis is None and self.divisor == 1 and int(self.high) - int(self.low) < 2**ROOT_BITS
        if not few:
            return None
        levels = np.arange(int(self.low), int(self.high) + 1)
        return Tabled(self, np.ldexp(levels.astype(np.float32), int(self.exponent)))


@dataclass(frozen=True, eq=False)
class Tabled:
    """A tensor of floats, each a function of an integer.

    Args:
        root: The integers.
        values: What each of them becomes, from the smallest on; float32.
    """

    root: Form
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.root.shape


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor of floats, or of the integers that the network was given.

    Args:
        index: Of the value in the program.
        shape: Of the tensor.
        moved: The operation that gave it and what that read, where it only moves values.
    """

    index: int
    shape: tuple[int, ...]
    moved: tuple[Any, ...] | None = None
