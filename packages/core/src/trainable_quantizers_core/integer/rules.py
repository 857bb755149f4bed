"""The integer form of each operation of a network; None where it has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from trainable_quantizers_core.integer.arithmetic import MOVES
from trainable_quantizers_core.integer.build import FAR, Builder
from trainable_quantizers_core.integer.dataflow import Node
from trainable_quantizers_core.integer.lattice import (
    EXACT_FLOAT_BITS,
    ROOT_BITS,
    Form,
    Raw,
    along,
    is_power_of_two,
    on_lattice,
    on_steps,
)
from trainable_quantizers_core.integer.sum_rules import WEIGHT_BITS, average_pool, convolution, matmul, mean, total
from trainable_quantizers_core.quantizer.accumulator import bits_of

_DIVISOR_BITS = 10
Rule = Callable[..., "Form | None"]


def _elementwise(bounds: Callable[..., tuple[int, int]]) -> Rule:
    """An operation of two operands that are brought to one grid."""

    def rule(to: Builder, node: Node, one: Any, two: Any) -> Form | None:
        if isinstance(one, Raw) or isinstance(two, Raw):
            return None
        found = to.aligned(one, two)
        if found is None:
            return None
        (low, high), (other_low, other_high) = found.ends
        ends = bounds(low, high, other_low, other_high)
        return to.form(node.kind, found.operands, node.shape, found.exponent, *ends, **found.grid)

    return rule


add = _elementwise(lambda a, b, c, d: (a + c, b + d))
subtract = _elementwise(lambda a, b, c, d: (a - d, b - c))
_EXTREMES = {
    "maximum": _elementwise(lambda a, b, c, d: (max(a, c), max(b, d))),
    "minimum": _elementwise(lambda a, b, c, d: (min(a, c), min(b, d))),
}


def extreme(to: Builder, node: Node, one: Any, two: Any) -> Form | None:
    """The larger, or the smaller, of two; of a tensor and a constant without change of grid."""
    x, bound = (two, one) if isinstance(one, np.ndarray) else (one, two)
    if isinstance(x, Form) and isinstance(bound, np.ndarray) and bound.size == 1 and node.shape == x.shape:
        return _bounded(to, x, float(bound.reshape(())), node.kind)
    return _EXTREMES[node.kind](to, node, one, two)


def clip(to: Builder, node: Node, x: Any) -> Form | None:
    """No smaller and no larger than constants: ReLU, ReLU6."""
    found = x if isinstance(x, Form) else None
    for operation, end in (("maximum", node.attributes["low"]), ("minimum", node.attributes["high"])):
        if end is not None and found is not None:
            found = _bounded(to, found, float(np.float32(end)), operation)
    return found


def _bounded(to: Builder, x: Form, end: float, operation: str) -> Form | None:
    fine = on_lattice(end)[1]
    if end and x.on_powers and (fine < x.exponent).any():  # a coarse grid: 6 where the step is 4
        if (x.exponent - fine > FAR // 2).any():
            return None
        x = to.finer(x, int(min(fine, x.exponent.min())))
    if end and not x.on_powers and bits_of(x.low.min(), x.high.max()) <= ROOT_BITS:  # 6 between two levels
        x = to.settled(x)
    level = np.ldexp(end * x.divisor / x.scale, -x.exponent)
    level = np.rint(level)
    join = np.maximum if operation == "maximum" else np.minimum
    low, high = join(x.low, level), join(x.high, level)
    if (low == x.low).all() and (high == x.high).all():
        return x
    inputs = (x.index, along(level.astype(np.int64), x.axis, len(x.shape)))
    return to.like(x, operation, inputs, x.shape, low=low, high=high)


def leaky_relu(to: Builder, node: Node, x: Any) -> Form | None:
    """The larger of q and q·slope, for slopes below one."""
    slope = float(np.float32(node.attributes["slope"]))
    if not isinstance(x, Form) or not 0 < slope < 1:
        return None
    smaller = multiply(to, node, x, np.array(slope))
    return smaller and _EXTREMES["maximum"](to, replace(node, kind="maximum"), x, smaller)


def multiply(to: Builder, node: Node, one: Any, two: Any) -> Form | None:
    """The product of integers, whose exponents add; by a power of two the same integers."""
    one, two = (two, one) if isinstance(one, np.ndarray) else (one, two)
    if isinstance(one, Raw) or isinstance(two, Raw):
        return None
    if isinstance(two, np.ndarray):
        number = float(two.reshape(())) if two.size == 1 else 0.0
        if is_power_of_two(number) and node.shape == one.shape:
            return to.read_as(one, math.frexp(number)[1] - 1)
        factor, exponent = on_lattice(two)
        divisor, exact, ends, scale = 1, True, (int(factor.min()), int(factor.max())), 1.0
        if bits_of(*ends) > EXACT_FLOAT_BITS + 1:
            return None
    else:
        two = to.scalar(two)
        factor, exponent, divisor, exact, ends = two.index, two.exponent, two.divisor, two.exact, (two.low, two.high)
        scale = two.scale
    one = to.scalar(one)
    products = [int(a) * int(b) for a in (one.low, one.high) for b in ends]
    grid: dict[str, Any] = {"divisor": one.divisor * divisor, "exact": one.exact and exact, "scale": one.scale * scale}
    inputs, exponent = (one.index, factor), one.exponent + exponent
    return to.form("multiply", inputs, node.shape, exponent, min(products), max(products), **grid)


def divide(to: Builder, node: Node, x: Any, by: Any) -> Form | None:
    """The same integers over a constant: a shift, or a divisor for the next quantizer."""
    if not isinstance(x, Form) or not isinstance(by, np.ndarray) or by.size != 1 or node.shape != x.shape:
        return None
    number = float(by.reshape(()))
    if is_power_of_two(number):
        return to.read_as(x, 1 - math.frexp(number)[1])
    whole, fine = on_lattice(number)
    return to.read_as(x, -int(fine), int(whole)) if 0 < int(whole) < 2**_DIVISOR_BITS else None


def negate(to: Builder, node: Node, x: Any) -> Form | None:
    """-q."""
    return multiply(to, node, x, np.array(-1.0))


def max_pool(to: Builder, node: Node, x: Any) -> Form | None:
    """The largest integer of each window."""
    if not isinstance(x, Form):
        return None
    return to.like(x, "max_pool", (x.index,), node.shape, attributes=node.attributes)


def largest(to: Builder, node: Node, x: Any) -> Form | None:
    """The largest integer over axes."""
    if not isinstance(x, Form):
        return None
    x = to.scalar(x)
    return to.like(x, "largest", (x.index,), node.shape, attributes=node.attributes)


def concatenate(to: Builder, node: Node, *parts: Any) -> Form | None:
    """Integers on one grid, one after the other."""
    if any(isinstance(each, Raw) for each in parts):
        return None
    found = to.aligned(*parts)
    if found is None:
        return None
    ends = min(low for low, _ in found.ends), max(high for _, high in found.ends)
    return to.form("concatenate", found.operands, node.shape, found.exponent, *ends, node.attributes, **found.grid)


def where(to: Builder, node: Node, condition: Any, one: Any, two: Any) -> Form | None:
    """Integers on one grid, of which a condition chooses."""
    if isinstance(condition, Form) or isinstance(one, Raw) or isinstance(two, Raw):
        return None
    found = to.aligned(one, two)
    if found is None:
        return None
    asked = condition.index if isinstance(condition, Raw) else condition.astype(np.int64)
    ends = min(low for low, _ in found.ends), max(high for _, high in found.ends)
    return to.form("where", (asked, *found.operands), node.shape, found.exponent, *ends, **found.grid)


def take(to: Builder, node: Node, x: Any, indices: Any) -> Form | None:
    """Integers at indices; of a table on a grid, at the indices that the network is given: an embedding."""
    if not isinstance(x, np.ndarray):
        return _moved(to, node, x, indices)
    whole, exponent = on_lattice(x)
    scale: Any = 1.0
    if bits_of(whole.min(), whole.max()) > WEIGHT_BITS and (found := on_steps(x[None], axis=0)) is not None:
        whole, exponent, scale = found[0][0], np.asarray(0), found[1][0]
    ends = int(whole.min()), int(whole.max())
    if not isinstance(indices, Raw) or bits_of(*ends) > WEIGHT_BITS:
        return None
    return to.form("take", (whole, indices.index), node.shape, exponent, *ends, node.attributes, scale=scale)


def _moved(to: Builder, node: Node, x: Any, *more: Any) -> Form | None:
    if not isinstance(x, Form):
        return None
    x = to.scalar(x)
    attributes, ends = dict(node.attributes), {"low": x.low, "high": x.high}
    if node.kind in ("pad", "spread"):
        value = np.ldexp(float(attributes.get("value", 0.0)) * x.divisor / x.scale, -x.exponent)
        if value != np.rint(value) and x.on_powers:
            return None
        if value != np.rint(value):
            return _moved(to, node, to.settled(x), *more)
        attributes |= {"value": int(value)} if node.kind == "pad" else {}
        ends = {"low": np.minimum(x.low, value), "high": np.maximum(x.high, value)}
    return to.like(x, node.kind, (x.index, *more), node.shape, attributes=attributes, **ends)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, _moved),
    "add": add,
    "average_pool": average_pool,
    "clip": clip,
    "concatenate": concatenate,
    "convolution": convolution,
    "divide": divide,
    "largest": largest,
    "leaky_relu": leaky_relu,
    "matmul": matmul,
    "max_pool": max_pool,
    "maximum": extreme,
    "mean": mean,
    "minimum": extreme,
    "multiply": multiply,
    "negate": negate,
    "subtract": subtract,
    "take": take,
    "total": total,
    "where": where,
}
