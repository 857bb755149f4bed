"""Lowering: from a network on floats that lie on grids to an integer program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.integer.arithmetic import MOVES
from trainable_quantizers_core.integer.build import Builder
from trainable_quantizers_core.integer.dataflow import Dataflow, Node
from trainable_quantizers_core.integer.lattice import Form, Raw, Tabled, along, is_power_of_two
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.rounding import to_integers
from trainable_quantizers_core.integer.rules import RULES
from trainable_quantizers_core.integer.sums import EXACT_BITS

_WIDEST = 62
"""Bits of an integer that is shifted."""


def lower(dataflow: Dataflow, rescale: RescaleRule = RescaleRule.FLOAT32) -> Program:
    """The program of a network, whose results are those of the network wherever float32 rounds nothing in it.

    Every number is followed as integers times a power of two: quantizers give them, weights are taken apart, sums and
    products add exponents, quantizers shift. A function of a tensor of few bits becomes a table. What is left is
    computed in float32, and named by ``Program.float_operations``. Where steps are no powers of two, quantizers
    multiply as ``rescale`` says, which may give another level than the network next to the middle between two.

    Raises:
        QuantizerError: an operation that numpy does not know here.
    """
    rules = [node.attributes["rule"] for node in dataflow.nodes if node.kind == "quantize"]
    builder = Builder(rescale, RoundingRule(rules[0]) if rules else RoundingRule.HALF_EVEN)
    known: dict[int, Any] = {}
    for node, dtype in zip(dataflow.inputs, dataflow.dtypes, strict=True):
        known[id(node)] = builder.raw(node.shape, dtype)
    for node in dataflow.nodes:
        builder.name = node.name
        read = [known[id(each)] if isinstance(each, Node) else np.asarray(each) for each in node.inputs]
        known[id(node)] = (
            _quantized(builder, node, read[0]) if node.kind == "quantize" else _lowered(builder, node, read)
        )
    outputs = {}
    for name, node in dataflow.outputs:
        builder.name = node.name
        result = known[id(node)]
        outputs[name] = (result if isinstance(result, Form) else builder.floats(result)).index
    return builder.program([known[id(node)] for node in dataflow.inputs], outputs)


def _lowered(builder: Builder, node: Node, read: Sequence[Any]) -> Any:
    """Lower an operation to integers, to a function of few integers, or to floats: the first that is possible."""
    if node.kind == "where" and isinstance(read[0], np.ndarray) and (read[0].all() or not read[0].any()):
        chosen = read[1 if read[0].all() else 2]
        if chosen.shape == node.shape and not isinstance(chosen, np.ndarray):
            return chosen  # a mask without effect
    table = _table(node, read)
    form = None
    if node.kind in MOVES and isinstance(read[0], Tabled) and not _writes(node):
        moved = RULES[node.kind](builder, node, read[0].root, *read[1:])
        assert moved is not None  # the same integers
        return replace(read[0], root=moved)
    if node.kind in RULES and not any(isinstance(each, Tabled) for each in read):
        form = RULES[node.kind](builder, node, *read)
    if form is not None:
        return form if table is None else replace(form, tabled=table)
    if table is not None:
        return table
    raw = builder.island(node, read)
    alone = node.kind in MOVES and node.kind != "concatenate" and isinstance(read[0], Raw)
    return replace(raw, moved=(node, *read)) if alone else raw


def _writes(node: Node) -> bool:
    """Whether a move adds new values, or values of other tensors."""
    return node.kind in ("concatenate", "pad", "spread")


def _table(node: Node, read: Sequence[Any]) -> Tabled | None:
    """An elementwise operation as a function of one tensor of few bits."""
    if node.function is None or any(isinstance(each, Raw) for each in read):
        return None
    tables = [each.as_table if isinstance(each, Form) else each for each in read]
    roots = [each.root for each in tables if isinstance(each, Tabled)]
    if not roots or any(each is None for each in tables) or any(root.index != roots[0].index for root in roots):
        return None
    if roots[0].shape != node.shape or any(each.size > 1 for each in tables if isinstance(each, np.ndarray)):
        return None
    values = [each.values for each in tables if isinstance(each, Tabled)]
    return Tabled(roots[0], np.asarray(node.function(*values), np.float32))


def _quantized(builder: Builder, node: Node, x: Any) -> Form:
    """The integers of a quantizer: a shift of other integers, a table, or what is made of floats."""
    step, zero, rule = node.attributes["step"], node.attributes["zero"], RoundingRule(node.attributes["rule"])
    powers = is_power_of_two(step)
    exponent, scale = (math.frexp(step)[1] - 1, 1.0) if powers else (0, step)
    low, high = node.attributes["low"] - zero, node.attributes["high"] - zero
    grid = {"low": low, "high": high, "rule": rule.value}
    from_lowest = node.attributes.get("from_lowest", False)
    table = (None if x.exact else x.tabled) if isinstance(x, Form) else x
    made: Form | None
    if isinstance(x, Raw):
        attributes = {"step": step, "from_lowest": from_lowest, **grid}
        made = _quantized_first(builder, node, x) or builder.form(
            "quantize", (x.index,), node.shape, exponent, low, high, attributes, scale=scale
        )
    elif table is not None:
        levels = to_integers(table.values, step, low, high, rule, from_lowest)
        inputs, attributes = (table.root.index, levels), {"low": int(table.root.low)}
        made = builder.form("lookup", inputs, node.shape, exponent, low, high, attributes, scale=scale)
    elif powers and x.on_powers:
        made = _shifted(builder, x, exponent, grid)
    elif x.step.ndim == 0 and x.step == step and low <= x.low and x.high <= high:
        made = x
    else:
        made = builder.rescaled(x, "rescale", scale, exponent, low, high)
    assert made is not None  # a grid of few bits
    return made


def _quantized_first(builder: Builder, node: Node, x: Raw) -> Form | None:
    """Floats that were moved, or padded by a level: quantized, then moved."""
    if x.moved is None:
        return None
    move, source, *more = x.moved
    return RULES[move.kind](builder, move, _quantized(builder, replace(node, shape=source.shape), source), *more)


def _shifted(builder: Builder, x: Form, exponent: int, grid: dict[str, Any]) -> Form | None:
    shift, low, high = exponent - x.exponent, grid["low"], grid["high"]
    if not shift.any() and x.divisor == 1 and low <= x.low.min() and x.high.max() <= high:
        return x
    x, shift = _in_64_bits(builder, x, shift, max(-low, high))
    lows, highs = (
        np.ldexp(end / x.divisor, -shift).clip(-(2.0**EXACT_BITS), 2.0**EXACT_BITS) for end in (x.low, x.high)
    )
    ends = (max(low, min(high, math.floor(lows.min()))), min(high, max(low, math.ceil(highs.max()))))
    attributes = {"axis": x.axis, "divisor": x.divisor, **grid}
    if x.axis is None:
        return builder.form("requantize", (x.index,), x.shape, exponent, *ends, attributes | {"shift": int(shift)})
    return builder.form("requantize", (x.index, shift), x.shape, exponent, *ends, attributes)


def _in_64_bits(builder: Builder, x: Form, shift: np.ndarray, most: int) -> tuple[Form, np.ndarray]:
    """Integers and shifts that give the same levels, none larger than ``most``, without a number beyond 64 bits.

    All shifts that make zero of every integer are the same, as are those that take every integer but zero off the grid.
    """
    largest = max(-int(x.low.min()), int(x.high.max()))
    to_zero = (2 * largest // x.divisor).bit_length()
    off_grid = ((most + 1) * x.divisor - 1).bit_length()
    shift = np.clip(shift, -off_grid, to_zero)
    if largest.bit_length() + int(np.maximum(-shift, 0).max()) < _WIDEST:
        return x, shift
    end = ((most + 1) * x.divisor >> np.maximum(-shift, 0)) + 1  # and all beyond are the same, too
    for operation, sign in (("minimum", 1), ("maximum", -1)):
        bounds = {"low": np.maximum(x.low, -end), "high": np.minimum(x.high, end)}
        inputs = (x.index, along(sign * end, x.axis, len(x.shape)))
        found = builder.like(x, operation, inputs, x.shape, **({"high": bounds["high"]} if sign > 0 else bounds))
        assert found is not None  # smaller than x
        x = found
    return x, shift
