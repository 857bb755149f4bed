"""Tensors and operations of a program, and the evaluation of one operation in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.errors import QuantizerError
from trainable_quantizers_core.integer.arithmetic import FLOAT, OPERATIONS
from trainable_quantizers_core.integer.lattice import along, numbers_of
from trainable_quantizers_core.integer.rescale import rescaled
from trainable_quantizers_core.integer.rounding import requantize, to_integers
from trainable_quantizers_core.quantizer.accumulator import bits_of


@dataclass(frozen=True)
class Value:
    """A tensor of a program. Integers q stand for q·scale·2^exponent / divisor.

    Args:
        shape: For one sample.
        dtype: ``"integer"``, or numpy's name for what is not.
        exponent: One, or one per channel.
        axis: Of the channels; None for one exponent.
        divisor: The count by which an average is still to be divided; 1 elsewhere.
        low: The smallest integer there can be.
        high: The largest.
        scale: One, or one per channel; 1 where steps are powers of two.
    """

    shape: tuple[int, ...]
    dtype: str = "integer"
    exponent: int | tuple[int, ...] = 0
    axis: int | None = None
    divisor: int = 1
    low: int = 0
    high: int = 0
    scale: float | tuple[float, ...] = 1.0

    @property
    def bits(self) -> int:
        """Bits that its integers need in the worst case."""
        return bits_of(self.low, self.high)

    def floats(self, integers: np.ndarray) -> np.ndarray:
        """The float32 numbers that its integers stand for; other values unchanged."""
        if self.dtype != "integer":
            return integers
        scale, exponent = (along(each, self.axis, integers.ndim) for each in (self.scale, self.exponent))
        return numbers_of(integers, scale, exponent, self.divisor)

    def integers(self, numbers: Any) -> np.ndarray:
        """The integers that stand for floats on its grid."""
        scale, exponent = (along(each, self.axis, np.ndim(numbers)) for each in (self.scale, self.exponent))
        levels = np.rint(np.ldexp(np.asarray(numbers, np.float64) * self.divisor / scale, -np.asarray(exponent)))
        return np.clip(levels, self.low, self.high).astype(np.int64)


@dataclass(frozen=True)
class Step:
    """An operation of a program.

    Args:
        operation: Its name.
        name: Of the operation of the network that it belongs to.
        inputs: Positions of the values that it reads, and names of constants.
        output: Position of its result.
        attributes: Its other arguments.
    """

    operation: str
    name: str
    inputs: tuple[int | str, ...]
    output: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


def computed(step: Step, inputs: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
    """The result of a step.

    Args:
        step: One of a program.
        inputs: Its inputs.
        values: The tensors of the program.

    Raises:
        QuantizerError: an integer beyond what was proven.
    """
    value = values[step.output]
    if step.operation == "dequantize":
        return values[step.inputs[0]].floats(inputs[0])  # type: ignore[index]
    table = _OWN if step.operation in _OWN else OPERATIONS if value.dtype == "integer" else FLOAT
    result = table[step.operation](*inputs, **step.attributes)
    if value.dtype != "integer":
        return result.astype(np.float32)
    if result.size and not (value.low <= result.min() and result.max() <= value.high):
        found = f"{result.min()} to {result.max()}"
        raise QuantizerError(f"{step.name}: {step.operation} gave {found}, beyond {value.low} to {value.high}.")
    return result


def _lookup(x: np.ndarray, table: np.ndarray, *, low: int) -> np.ndarray:
    return table[x - low]


def _requantize(x: np.ndarray, shift: np.ndarray | None = None, **attributes: Any) -> np.ndarray:
    rule = RoundingRule(attributes.pop("rule"))
    return requantize(x, attributes.pop("shift", shift), attributes.pop("axis", None), rule=rule, **attributes)


def _quantize(x: np.ndarray, *, rule: str, **attributes: Any) -> np.ndarray:
    return to_integers(x, rule=RoundingRule(rule), **attributes)


def _rescale(*inputs: np.ndarray, rule: str, rescale: str, **attributes: Any) -> np.ndarray:
    return rescaled(*inputs, rule=RoundingRule(rule), **attributes)


_OWN: dict[str, Callable[..., np.ndarray]] = {
    "align": _rescale,
    "lookup": _lookup,
    "quantize": _quantize,
    "requantize": _requantize,
    "rescale": _rescale,
}
