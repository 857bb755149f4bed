"""C code for operations that compute values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.c_writer import Writer, place_of, strides_of
from trainable_quantizers_core.integer.step import Step

Attributes = Mapping[str, Any]


def _elementwise(to: Writer, step: Step, attributes: Attributes) -> None:
    shape = to.shape(step.output)
    wide = to.type(step.output) == "int64" and step.operation != "where"

    def body(names: list[str], depth: int) -> None:
        places = [place_of(names, strides_of(to.shape(each), len(shape))) for each in step.inputs]
        operands = [
            f"{'(int64_t)' if wide else ''}{to.read(each)}[{place}]"
            for each, place in zip(step.inputs, places, strict=True)
        ]
        number = _EXPRESSIONS[step.operation](*operands)
        to.store(step, place_of(names, strides_of(shape, len(shape))), number, depth)

    to.loops(shape, body)


_EXPRESSIONS: dict[str, Callable[..., str]] = {
    "add": lambda a, b: f"{a} + {b}",
    "maximum": lambda a, b: f"{a} > {b} ? {a} : {b}",
    "minimum": lambda a, b: f"{a} < {b} ? {a} : {b}",
    "multiply": lambda a, b: f"{a} * {b}",
    "subtract": lambda a, b: f"{a} - {b}",
    "where": lambda condition, a, b: f"{condition} ? {a} : {b}",
}
"""In int, which holds what operands of 16 bits and results of 32 need; of results of 64 bits, operands are that too."""


def _lookup(to: Writer, step: Step, attributes: Attributes) -> None:
    x, table = step.inputs
    to.line(f"for (int i = 0; i < {math.prod(to.shape(step.output))}; i++)")
    to.store(step, "i", f"{to.read(table)}[{to.read(x)}[i] - ({attributes['low']})]", 1, table)


def _rounded(
    to: Writer, step: Step, attributes: Attributes, number: Callable[[str, str], tuple[str, str, Any]]
) -> None:
    """clip(round(n·2^-shift / divisor)); ``number`` gives the three of a place and a channel."""
    shape, axis, rule = to.shape(step.output), attributes["axis"], RoundingRule(attributes["rule"])
    to.ties.add(rule)
    low, high = attributes["low"], attributes["high"]

    def body(names: list[str], depth: int) -> None:
        at = place_of(names, strides_of(shape, len(shape)))
        given = ", ".join(map(str, number(at, "0" if axis is None else names[axis])))
        to.line(f"const int64_t q = round_{rule.value}({given});", depth)
        to.store(step, at, f"q < ({low}) ? ({low}) : q > ({high}) ? ({high}) : q", depth)

    to.loops(shape, body)


def _requantize(to: Writer, step: Step, attributes: Attributes) -> None:
    x, divisor = to.read(step.inputs[0]), attributes["divisor"]

    def number(at: str, channel: str) -> tuple[str, str, Any]:
        shift = str(attributes["shift"]) if "shift" in attributes else f"{step.inputs[1]}[{channel}]"
        return f"{x}[{at}]", shift, divisor

    _rounded(to, step, attributes, number)


def _rescale(to: Writer, step: Step, attributes: Attributes) -> None:
    x, factor, shift = map(to.read, step.inputs)

    def number(at: str, channel: str) -> tuple[str, str, Any]:
        return f"(int64_t){x}[{at}] * {factor}[{channel}]", f"{shift}[{channel}]", 1

    _rounded(to, step, attributes, number)


def _ordered(sizes: Sequence[int], attributes: Attributes) -> list[int]:
    """Sizes or strides with the channels behind the samples."""
    return [sizes[0], sizes[-1], *sizes[1:-1]] if attributes["channels_last"] else list(sizes)


def _convolution(to: Writer, step: Step, attributes: Attributes) -> None:
    x, weight, *bias = step.inputs
    made, per_group, *window = to.shape(weight)
    shape, given = to.shape(step.output), to.shape(x)
    out_strides, in_strides = (_ordered(strides_of(each, len(each)), attributes) for each in (shape, given))
    spatial, sizes = _ordered(shape, attributes)[2:], _ordered(given, attributes)[2:]
    each = made // attributes["groups"]
    wide = _sum_type(to, step)

    def sums(names: list[str], depth: int) -> None:
        sample, channel, *place = names
        to.line(f"{wide} sum = {f'{bias[0]}[{channel}]' if bias else 0};", depth)

        def inside(inner: list[str], deeper: int) -> None:
            part, *at = inner
            seen = _seen(to, place, at, sizes, attributes, deeper)
            group = f"({channel} / {each} * {per_group} + {part})"
            read = place_of([sample, group, *seen], in_strides)
            factor = place_of([channel, part, *at], strides_of((made, per_group, *window), len(window) + 2))
            to.line(f"sum += ({wide}){weight}[{factor}] * {to.read(x)}[{read}];", deeper)

        to.loops([per_group, *window], inside, "k", depth)
        to.store(step, place_of(names, out_strides), "sum", depth)

    to.loops([shape[0], made, *spatial], sums)


def _seen(
    to: Writer, place: Sequence[str], at: Sequence[str], sizes: Sequence[int], attributes: Attributes, depth: int
) -> list[str]:
    """The positions that a place of a window covers along each spatial axis; padding is skipped."""
    gaps = attributes.get("dilation", [1] * len(sizes))
    steps = zip(place, attributes["strides"], at, gaps, attributes["padding"], strict=True)
    found = []
    for axis, (name, stride, inner, gap, (before, after)) in enumerate(steps):
        found.append(place_of([name, inner], [stride, gap]))
        if before or after:
            to.line(f"const int y{axis} = {found[-1]} - {before};", depth)
            to.line(f"if (y{axis} < 0 || y{axis} >= {sizes[axis]}) continue;", depth)
            found[-1] = f"y{axis}"
    return [f"({each})" if " " in each else each for each in found]


def _sum_type(to: Writer, step: Step) -> str:
    """A type that holds every partial sum."""
    x, weight, *bias = step.inputs
    most = max(abs(to.value(x).low), abs(to.value(x).high))
    if isinstance(weight, int):
        other = to.value(weight)
        most *= max(abs(other.low), abs(other.high)) * to.shape(x)[-1]
    else:
        array = np.abs(to.array(weight))
        flat = array.reshape(len(array), -1).sum(1) if step.operation == "convolution" else array.sum(-2)
        most *= int(flat.max())
    most += int(np.abs(to.array(bias[0])).max()) if bias else 0
    return "int32_t" if most < 2**31 else "int64_t"


def _matmul(to: Writer, step: Step, attributes: Attributes) -> None:
    x, other, *bias = step.inputs
    shape, rank = to.shape(step.output), len(to.shape(step.output))
    one, two = strides_of(to.shape(x), rank), strides_of(to.shape(other), rank)
    length = to.shape(x)[-1]
    wide = _sum_type(to, step)

    def sums(names: list[str], depth: int) -> None:
        to.line(f"{wide} sum = {f'{bias[0]}[{names[-1]}]' if bias else 0};", depth)
        left = place_of([*names[:-1], "k"], one)
        right = place_of([*names[:-2], "k", names[-1]], two)
        product = f"({wide}){to.read(x)}[{left}] * {to.read(other)}[{right}]"
        to.line(f"for (int k = 0; k < {length}; k++) sum += {product};", depth)
        to.store(step, place_of(names, strides_of(shape, rank)), "sum", depth)

    to.loops(shape, sums)


def _joined(to: Writer, step: Step, depth: int, visit: Callable[[Callable[[str, int], None]], None]) -> None:
    """``found``, the largest or the sum of the numbers that ``visit`` hands over."""
    largest = step.operation in ("max_pool", "largest")
    wide = "int64_t" if to.type(step.output) == "int64" else "int32_t"
    to.line(f"{wide} found = {to.value(step.inputs[0]).low if largest else 0};", depth)
    visit(
        lambda read, deeper: to.line(f"if ({read} > found) found = {read};" if largest else f"found += {read};", deeper)
    )


def _pool(to: Writer, step: Step, attributes: Attributes) -> None:
    (x,) = step.inputs
    shape, given = to.shape(step.output), to.shape(x)
    out_strides, in_strides = (_ordered(strides_of(each, len(each)), attributes) for each in (shape, given))
    sizes = _ordered(given, attributes)[2:]

    def pooled(names: list[str], depth: int) -> None:
        def visit(join: Callable[[str, int], None]) -> None:
            def inside(at: list[str], deeper: int) -> None:
                seen = _seen(to, names[2:], at, sizes, attributes, deeper)
                join(f"{to.read(x)}[{place_of([*names[:2], *seen], in_strides)}]", deeper)

            to.loops(attributes["window"], inside, "k", depth)

        _joined(to, step, depth, visit)
        to.store(step, place_of(names, out_strides), "found", depth)

    to.loops(_ordered(shape, attributes), pooled)


def _reduce(to: Writer, step: Step, attributes: Attributes) -> None:
    (x,) = step.inputs
    given, axes = to.shape(x), list(attributes["axes"])
    kept = [1 if axis in axes else size for axis, size in enumerate(given)]
    strides = strides_of(given, len(given))

    def reduced(names: list[str], depth: int) -> None:
        def visit(join: Callable[[str, int], None]) -> None:
            def inside(inner: list[str], deeper: int) -> None:
                places = dict(zip(axes, inner, strict=True))
                at = place_of([places.get(axis, name) for axis, name in enumerate(names)], strides)
                join(f"{to.read(x)}[{at}]", deeper)

            to.loops([given[axis] for axis in axes], inside, "k", depth)

        _joined(to, step, depth, visit)
        to.store(step, place_of(names, strides_of(kept, len(kept))), "found", depth)

    to.loops(kept, reduced)


COMPUTING: dict[str, Callable[[Writer, Step, Attributes], None]] = {
    **dict.fromkeys(_EXPRESSIONS, _elementwise),
    **dict.fromkeys(("largest", "total"), _reduce),
    **dict.fromkeys(("max_pool", "sum_pool"), _pool),
    **dict.fromkeys(("align", "rescale"), _rescale),
    "convolution": _convolution,
    "lookup": _lookup,
    "matmul": _matmul,
    "requantize": _requantize,
}
