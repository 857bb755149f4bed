"""Tensors as integers times a step, mostly a power of two, and the decomposition of constants into these."""

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


def on_steps(values: Any, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(q, Δ) with values = q·Δ but for the rounding of float32, one Δ per channel; None where there is none.

    Δ is the largest of each channel, made finer where the integers of other channels are twice as large and more: all
    weights of a channel may be even levels. Where one Δ gives no larger integers, all channels have that.

    Examples:
        >>> on_steps(np.float32([[0.25, -1.5], [0.7, 2.1]]), axis=0)[0]
        array([[ 1, -6],
               [ 2,  6]])
    """
    rows = np.moveaxis(np.asarray(values, np.float64), axis, 0)
    sizes = np.abs(rows.reshape(len(rows), -1))
    steps = [_step(row) for row in sizes]
    known = [step for step in steps if step]
    if None in steps or not known:
        return None
    step = np.array([step or min(known) for step in steps])
    levels = np.rint(sizes.max(1) / step)
    levels[levels == 0] = levels.max()
    common = _step(sizes, int(levels.max()))
    step = step / (levels.max() // levels) if common is None else np.full(len(rows), common)
    shape = [-1 if at == axis else 1 for at in range(rows.ndim)]
    return np.rint(np.asarray(values, np.float64) / step.reshape(shape)).astype(np.int64), step


def _step(sizes: np.ndarray, most: int = 2**ROOT_BITS) -> float | None:
    """The largest step of which all magnitudes are multiples, up to ``most`` of them; 0 if all are zero."""
    found = np.unique(sizes)
    largest = float(found[-1])
    counts = np.arange(1, most + 1)  # of steps in the largest
    for each in found[:-1]:
        multiples = counts * (each / largest)
        counts = counts[np.abs(multiples - np.rint(multiples)) <= multiples * 2.0**-23]  # both rounded to float32
        if not counts.size:
            return None
    return largest / float(counts[0]) if largest else 0.0


def along(values: Any, axis: int | None, rank: int) -> np.ndarray:
    """One value, or one per channel, in the shape in which it meets a tensor.

    Examples:
        >>> along([1, 2], -3, 4).shape
        (1, 2, 1, 1)
    """
    values = np.asarray(values)
    if not values.ndim:
        return values
    shape = [1] * rank
    shape[axis if axis is not None else 0] = -1
    return values.reshape(shape)


def numbers_of(integers: np.ndarray, scale: Any, exponent: Any, divisor: int = 1) -> np.ndarray:
    """The float32 numbers q·scale·2^exponent / divisor.

    Examples:
        >>> numbers_of(np.array([3, -1]), 1.0, -2).tolist()
        [0.75, -0.25]
    """
    return np.ldexp(integers.astype(np.float64) * scale / divisor, exponent).astype(np.float32)  # type: ignore[no-any-return]


def is_power_of_two(step: float) -> bool:
    """Whether a number is a power of two.

    Examples:
        >>> is_power_of_two(0.25), is_power_of_two(0.3)
        (True, False)
    """
    return bool(np.frexp(step)[0] == 0.5)


@dataclass(frozen=True, eq=False)
class Form:
    """A tensor of integers q, which stand for q·scale·2^exponent / divisor.

    Args:
        index: Of the value in the program.
        shape: Of the tensor.
        exponent: One, or one per channel.
        low: The smallest that q can be, likewise.
        high: The largest.
        scale: One, or one per channel; 1 where steps are powers of two.
        axis: Of the channels; None for one exponent.
        divisor: The count by which an average is still to be divided; 1 elsewhere.
        exact: Whether float32 computes these numbers without rounding.
        tabled: The same numbers as a function of a tensor of few bits, where they are.
    """

    index: int
    shape: tuple[int, ...]
    exponent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    axis: int | None = None
    divisor: int = 1
    exact: bool = True
    tabled: Tabled | None = None

    @property
    def on_powers(self) -> bool:
        """Whether its steps are powers of two."""
        return bool((self.scale == 1).all())

    @property
    def step(self) -> np.ndarray:
        """The step of its numbers, one or one per channel."""
        return np.ldexp(self.scale, self.exponent) / self.divisor  # type: ignore[no-any-return]

    @property
    def as_table(self) -> Tabled | None:
        """The numbers as a function of a tensor of few bits; its own integers, if they are few."""
        if self.tabled is not None:
            return self.tabled
        few = self.axis is None and self.divisor == 1 and int(self.high) - int(self.low) < 2**ROOT_BITS
        if not few:
            return None
        levels = np.arange(int(self.low), int(self.high) + 1)
        return Tabled(self, numbers_of(levels, float(self.scale), int(self.exponent)))


@dataclass(frozen=True, eq=False)
class Tabled:
    """A tensor of floats, each a function of an integer.

    Args:
        root: The integers.
        values: The value of each of them, from the smallest on; float32.
    """

    root: Form
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
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
