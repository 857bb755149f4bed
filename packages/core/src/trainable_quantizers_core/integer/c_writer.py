"""A writer of C code: names, types and storage of a program's values, and loops over their indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.step import Step, Value

_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "int64")


def integer_type(value: Value) -> str:
    """The smallest type of C that holds a value, as numpy calls it."""
    return _fitting(value.low, value.high) if value.dtype == "integer" else value.dtype


class Writer:
    """Gathers the lines of a function; values whose lives do not overlap share static arrays.

    Args:
        program: On integers alone.

    Attributes:
        place: Names of the arrays of values.
        sizes: The number of elements of each static array, by its name.
        types: Of the static arrays, by name.
        lines: Those written so far.
        ties: The rules for ties that the lines use.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.place: dict[int | str, str] = {}
        self.sizes: dict[str, int] = {}
        self.types: dict[str, str] = {}
        self.lines: list[str] = []
        self.ties: set[RoundingRule] = set()
        self._free: list[str] = []

    def value(self, index: int | str) -> Value:
        """A tensor of the program."""
        assert isinstance(index, int)  # no constant
        return self._program.values[index]

    def array(self, key: int | str) -> np.ndarray:
        """A constant of the program."""
        assert isinstance(key, str)  # no value
        return self._program.constants[key]

    def type(self, key: int | str) -> str:
        """The C type of the numbers of a value or constant."""
        if isinstance(key, int):
            return integer_type(self.value(key))
        return _fitting(int(self.array(key).min(initial=0)), int(self.array(key).max(initial=0)))

    def shape(self, key: int | str) -> tuple[int, ...]:
        """The shape of a value or constant."""
        return self.value(key).shape if isinstance(key, int) else self.array(key).shape

    def read(self, key: int | str) -> str:
        """The array that holds a value or constant."""
        return key if isinstance(key, str) else self.place[key]

    def buffer(self, index: int) -> str:
        """A static array for a new value."""
        kind, count = self.type(index), math.prod(self.shape(index))
        free = next((each for each in self._free if self.types[each] == kind), None)
        if free is None:
            free = f"v{len(self.sizes)}"
            self.types[free] = kind
        else:
            self._free.remove(free)
        self.sizes[free] = max(count, self.sizes.get(free, 1))
        self.place[index] = free
        return free

    def release(self, index: int) -> None:
        """The array of a value that nothing reads any more."""
        if self.place.get(index) in self.sizes:
            self._free.append(self.place[index])

    def line(self, text: str, depth: int = 0) -> None:
        """One more."""
        self.lines.append("    " * (depth + 1) + text)

    def store(self, step: Step, at: str, number: str, depth: int, source: int | str | None = None) -> None:
        """Write a number to a place in the result of a step; ``source`` is what it is read from, as it is."""
        kind = self.type(step.output)
        number = number if source is not None and self.type(source) == kind else f"({kind}_t)({number})"
        self.line(f"{self.place[step.output]}[{at}] = {number};", depth)

    def loops(
        self, sizes: Sequence[int], body: Callable[[list[str], int], None], letter: str = "i", depth: int = 0
    ) -> None:
        """Loops over all indices; an axis of one has the index 0."""
        names = []
        for at, size in enumerate(sizes):
            names.append(f"{letter}{at}" if size > 1 else "0")
            if size > 1:
                self.line(f"for (int {names[-1]} = 0; {names[-1]} < {size}; {names[-1]}++)", depth)
                depth += 1
        self.line("{", depth)
        body(names, depth + 1)
        self.line("}", depth)


def strides_of(shape: Sequence[int], rank: int) -> list[int]:
    """Steps in memory along each of ``rank`` axes; 0 along those that are repeated.

    Examples:
        >>> strides_of((2, 1, 3), 4)
        [0, 3, 0, 1]
    """
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step if size > 1 else 0)
        step *= size
    return [0] * (rank - len(shape)) + strides[::-1]


def place_of(names: Sequence[str], strides: Sequence[int]) -> str:
    """The place in memory of indices.

    Examples:
        >>> place_of(["i0", "0", "i2"], [6, 3, 1])
        'i0 * 6 + i2'
    """
    terms = [
        name if stride == 1 else f"{name} * {stride}"
        for name, stride in zip(names, strides, strict=True)
        if stride and name != "0"
    ]
    return " + ".join(terms) or "0"


def _fitting(low: int, high: int) -> str:
    return next(each for each in _TYPES if np.iinfo(each).min <= low and high <= np.iinfo(each).max)
