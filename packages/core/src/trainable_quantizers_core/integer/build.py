"""The builder of integer programs: adds steps, and tracks the integers that they give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.arithmetic import FLOAT
from trainable_quantizers_core.integer.dataflow import Node, no_definition
from trainable_quantizers_core.integer.lattice import EXACT_FLOAT_BITS, Form, Raw, Tabled, along, on_lattice
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.rescale import multiplier
from trainable_quantizers_core.integer.step import Step, Value
from trainable_quantizers_core.integer.sums import EXACT_BITS
from trainable_quantizers_core.quantizer.accumulator import bits_of

FAR = 40
"""Grids whose steps differ by more powers of two have no common one here."""
SETTLED_BITS = 29
"""Bits of numbers that a multiplication brings to a common grid."""
_WIDER = 1 + 2.0**-20  # than exact products: those in float32


class Builder:
    """Collects steps; ``name`` is the operation of the network that they belong to."""

    def __init__(self, rescale: RescaleRule = RescaleRule.FLOAT32, rule: RoundingRule = RoundingRule.HALF_EVEN) -> None:
        self.name = ""
        self._rescale = rescale
        self._rule = rule
        self.notes: list[str] = []
        self._values: list[Value] = []
        self._steps: list[Step] = []
        self._constants: dict[str, np.ndarray] = {}
        self._floats: dict[int, tuple[Any, Raw]] = {}

    def program(self, inputs: Sequence[Raw], outputs: Mapping[str, int]) -> Program:
        """The program of the steps that the outputs need."""
        wanted: set[Any] = set(outputs.values())
        steps = []
        for step in reversed(self._steps):
            if step.output in wanted:
                wanted.update(step.inputs)
                steps.append(step)
        constants = {name: value for name, value in self._constants.items() if name in wanted}
        return Program(self._values, steps[::-1], constants, [each.index for each in inputs], outputs, self.notes)

    def raw(self, shape: Sequence[int], dtype: str = "float32") -> Raw:
        """A new tensor that is not of integers on a grid."""
        self._values.append(Value(tuple(shape), dtype))
        return Raw(len(self._values) - 1, tuple(shape))

    def form(
        self,
        operation: str,
        inputs: Sequence[Any],
        shape: Sequence[int],
        exponent: Any,
        low: Any,
        high: Any,
        attributes: Mapping[str, Any] | None = None,
        *,
        axis: int | None = None,
        divisor: int = 1,
        exact: bool = True,
        scale: Any = 1.0,
    ) -> Form | None:
        """The integers that a new step gives; None if they are too large for exact sums."""
        low, high = (np.asarray(end, np.float64) for end in (low, high))
        largest = max(-low.min(), high.max())
        if largest >= 2**EXACT_BITS:
            return None
        low, high, exponent = (np.asarray(each, np.int64) for each in (low, high, exponent))
        scale = np.asarray(1.0 if np.all(np.asarray(scale) == 1) else scale)
        exponent = np.broadcast_to(exponent, scale.shape) if scale.ndim else exponent
        if exponent.ndim and (exponent == exponent[0]).all() and (scale == scale.flat[0]).all():
            exponent, scale, low, high, axis = exponent[0], np.asarray(scale.flat[0]), low.min(), high.max(), None
        ends = (int(low.min()), int(high.max()))
        grid = (_plain(exponent), axis, divisor, *ends, _plain(scale))
        self._values.append(Value(tuple(shape), "integer", *grid))
        exact = bool(exact and largest < 2**EXACT_FLOAT_BITS and (scale == 1).all())
        index = len(self._values) - 1
        form = Form(index, tuple(shape), exponent, low, high, scale, axis, divisor, exact)
        self._step(operation, inputs, form.index, attributes)
        return form

    def like(self, x: Form, operation: str, inputs: Sequence[Any], shape: Sequence[int], **changed: Any) -> Form | None:
        """The integers of a new step on the grid of others."""
        options = {each: getattr(x, each) for each in ("exponent", "low", "high", "axis", "divisor", "exact", "scale")}
        return self.form(operation, inputs, shape, **(options | changed))

    def read_as(self, x: Form, exponent: int, divisor: int = 1) -> Form | None:
        """The same integers, which stand for numbers 2^exponent/divisor times those of today."""
        changed = {"exponent": x.exponent + exponent, "divisor": x.divisor * divisor, "exact": x.exact and divisor == 1}
        return self.like(x, "reshape", (x.index,), x.shape, attributes={"sizes": list(x.shape)}, **changed)

    def scalar(self, x: Form) -> Form:
        """The same numbers with one exponent; of steps that are no powers of two apart, to 29 bits."""
        if x.scale.ndim:
            return self.settled(x)
        return self.finer(x, int(x.exponent.min())) if x.exponent.ndim else x

    def finer(self, x: Form, exponent: int, times: int = 1) -> Form:
        """The same numbers in units of 2^exponent/(divisor·times), which divide those of today.

        Raises:
            QuantizerError: the integers become too large.
        """
        factor = np.int64(times) << (x.exponent - exponent)
        if (factor == 1).all():
            return x
        ends = {"low": (x.low * 1.0 * factor).min(), "high": (x.high * 1.0 * factor).max()}
        inputs = (x.index, along(factor, x.axis, len(x.shape)))
        changed = {"exponent": exponent, "divisor": x.divisor * times, "axis": None, **ends}
        found = self.like(x, "multiply", inputs, x.shape, **changed)
        if found is None:
            rule = f"of grids that meet in integers of {EXACT_BITS} bits"
            raise invalid("to_integer", "network", rule, self.name, "leave this operation in float, or use fewer bits")
        return replace(found, tabled=x.tabled)

    def aligned(self, *given: Any) -> Aligned | None:
        """Forms and constants on one grid; None if there is none."""
        if not all(np.isfinite(each).all() for each in given if isinstance(each, np.ndarray)):
            return None
        scales = {1.0 if isinstance(each, np.ndarray) else _plain(each.scale) for each in given}
        if len(scales) > 1 or any(isinstance(each, tuple) for each in scales):
            return self._all_settled(given)
        forms: list[Any] = [each if isinstance(each, np.ndarray) else self.scalar(each) for each in given]
        taken = {at: on_lattice(each) for at, each in enumerate(forms) if isinstance(each, np.ndarray)}
        exponents = [int(taken[at][1] if at in taken else form.exponent) for at, form in enumerate(forms)]
        exponent = min(exponents)
        divisor = math.lcm(*(form.divisor for form in forms if isinstance(form, Form)))
        if max(exponents) - exponent > FAR:
            return None
        found = Aligned(exponent, divisor, scales.pop())
        for at, form in enumerate(forms):
            if at not in taken:
                fine = self.finer(form, exponent, divisor // form.divisor)
                found.add(fine.index, int(fine.low), int(fine.high), fine.exact)
                continue
            whole, own = taken[at]
            ends = whole.min(initial=0), whole.max(initial=0)
            if bits_of(*ends) + int(own) - exponent > EXACT_BITS:
                return None
            factor = divisor << (int(own) - exponent)
            found.add(whole * factor, int(ends[0]) * factor, int(ends[1]) * factor, True)
        return found

    def rescaled(self, x: Form, operation: str, scale: float, exponent: int, low: Any, high: Any) -> Form | None:
        """The numbers rounded to multiples of scale·2^exponent, from the integer low to high, by a multiplication."""
        factor = x.step / np.ldexp(scale, exponent)
        bits = bits_of(x.low.min(), x.high.max())
        rules = {"rule": self._rule.value, "rescale": self._rescale.value}
        attributes = {"axis": x.axis, "low": int(low), "high": int(high), **rules}
        least, most = np.floor((x.low * factor).min() * _WIDER) - 1, np.ceil((x.high * factor).max() * _WIDER) + 1
        ends = np.clip(least, low, high), np.clip(most, low, high)
        inputs = (x.index, *multiplier(factor, bits, self._rescale))
        return self.form(operation, inputs, x.shape, exponent, *ends, attributes, scale=scale)

    def settled(self, x: Form, exponent: int | None = None) -> Form:
        """The same numbers to 29 bits, on the finest power of two that allows it, or on a coarser one."""
        exponent = _settled_exponent(x) if exponent is None else exponent
        found = self.rescaled(x, "align", 1.0, exponent, -(2**SETTLED_BITS), 2**SETTLED_BITS)
        assert found is not None  # of so few bits
        return replace(found, tabled=x.tabled)

    def _all_settled(self, given: Sequence[Any]) -> Aligned:
        """Operands whose steps are no powers of two apart: on one that is, of 29 bits, as LiteRT adds them."""
        exponent = max(map(_settled_exponent, given))
        found = Aligned(exponent, 1)
        for each in given:
            if isinstance(each, np.ndarray):
                whole = np.asarray(np.rint(np.ldexp(each.astype(np.float64), -exponent)), np.int64)
                found.add(whole, int(whole.min(initial=0)), int(whole.max(initial=0)), False)
            else:
                form = self.settled(each, exponent)
                found.add(form.index, int(form.low), int(form.high), False)
        return found

    def floats(self, value: Any) -> Any:
        """The floats that integers stand for, or that a table gives."""
        if isinstance(value, Raw):
            return value
        if id(value) not in self._floats:
            result = self.raw(value.shape)
            if isinstance(value, Tabled):
                self._step("lookup", (value.root.index, value.values), result.index, {"low": int(value.root.low)})
            else:
                self._step("dequantize", (value.index,), result.index)
            self._floats[id(value)] = value, result
        return self._floats[id(value)][1]

    def island(self, node: Node, read: Sequence[Any]) -> Raw:
        """A step in floats.

        Raises:
            QuantizerError: numpy does not know the operation here.
        """
        if node.kind not in FLOAT:
            raise no_definition(node.kind, node.name)
        whole = node.kind == "take"  # its indices are no floats
        given = [
            (each if whole else np.asarray(each, np.float32))
            if isinstance(each, np.ndarray)
            else (each if whole else self.floats(each)).index
            for each in read
        ]
        result = self.raw(node.shape)
        self._step(node.kind, given, result.index, node.attributes)
        return result

    def over(self, x: Form, count: int) -> Form:
        """The integers of the last step, which now stand for numbers ``count`` times as small."""
        self._values[x.index] = replace(self._values[x.index], divisor=x.divisor * count)
        return replace(x, divisor=x.divisor * count)

    def _step(
        self, operation: str, inputs: Sequence[Any], output: int, attributes: Mapping[str, Any] | None = None
    ) -> None:
        given = tuple(self._constant(each) if isinstance(each, (np.ndarray, np.generic)) else each for each in inputs)
        plain = json.loads(json.dumps(dict(attributes or {})))  # as a file gives them back
        self._steps.append(Step(operation, self.name, given, output, plain))

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name


def _settled_exponent(value: Any) -> int:
    """The exponent of the finest power of two for which 29 bits hold a tensor or a constant."""
    if isinstance(value, np.ndarray):
        return int(np.frexp(np.abs(value).max(initial=0.0))[1]) - SETTLED_BITS
    ends = np.maximum(np.abs(value.low), np.abs(value.high)) * value.step
    return int(np.frexp(ends.max())[1]) - SETTLED_BITS


def _plain(values: np.ndarray) -> Any:
    """One number, or several as a tuple."""
    return tuple(values.tolist()) if values.ndim else values.item()


class Aligned:
    """Operands on one grid.

    Args:
        exponent: Of the grid.
        divisor: Likewise.
        scale: Likewise.
    """

    def __init__(self, exponent: int, divisor: int, scale: float = 1.0) -> None:
        self.exponent = exponent
        self.divisor = divisor
        self.scale = scale
        self.operands: list[Any] = []
        self.ends: list[tuple[int, int]] = []
        self.exact = True

    @property
    def grid(self) -> dict[str, Any]:
        """The grid for a step that joins the operands."""
        return {"divisor": self.divisor, "exact": self.exact, "scale": self.scale}

    def add(self, operand: Any, low: int, high: int, exact: bool) -> None:
        """One more: a position or an array, and its bounds."""
        self.operands.append(operand)
        self.ends.append((low, high))
        self.exact = self.exact and exact
