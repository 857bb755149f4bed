"""C code for operations that move values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainable_quantizers_core.integer.c_writer import Writer, place_of, strides_of
from trainable_quantizers_core.integer.step import Step


def _copy(to: Writer, step: Step, sizes: Sequence[int], target: str, source: int | str, place: str) -> None:
    """Loops over ``sizes`` that copy; target and place are of names i0, i1, ... put in by ``format``."""

    def body(names: list[str], depth: int) -> None:
        to.store(step, target.format(*names), f"{to.read(source)}[{place.format(*names)}]", depth, source)

    to.loops(sizes, body)


def _slots(rank: int) -> list[str]:
    return [f"{{{axis}}}" for axis in range(rank)]


def _moved(to: Writer, step: Step, attributes: Mapping[str, Any]) -> None:
    x, shape = step.inputs[0], to.shape(step.output)
    given, rank = to.shape(x), len(shape)
    strides, offset = strides_of(given, len(given)), 0
    if step.operation == "transpose":
        strides = [strides[axis] for axis in attributes["axes"]]
    elif step.operation == "part":
        offset = sum(start * stride for start, stride in zip(attributes["starts"], strides, strict=True))
        strides = [stride * step_size for stride, step_size in zip(strides, attributes["steps"], strict=True)]
    else:
        strides = strides_of(given, rank)
    slots = _slots(rank)
    _copy(to, step, shape, place_of(slots, strides_of(shape, rank)), x, f"{offset} + {place_of(slots, strides)}")


def _around(to: Writer, step: Step, attributes: Mapping[str, Any]) -> None:
    x, shape = step.inputs[0], to.shape(step.output)
    given, rank = to.shape(x), len(shape)
    strides, offset = strides_of(shape, rank), 0
    if step.operation == "pad":
        offset = sum(before * stride for (before, _), stride in zip(attributes["padding"], strides, strict=True))
    else:
        factors = dict(zip(attributes["axes"], attributes["factors"], strict=True))
        strides = [stride * factors.get(axis, 1) for axis, stride in enumerate(strides)]
    value = attributes.get("value", 0)
    to.line(f"for (int i = 0; i < {math.prod(shape)}; i++) {to.read(step.output)}[i] = {value};")
    slots = _slots(rank)
    _copy(to, step, given, f"{offset} + {place_of(slots, strides)}", x, place_of(slots, strides_of(given, rank)))


def _concatenate(to: Writer, step: Step, attributes: Mapping[str, Any]) -> None:
    shape, axis, begin = to.shape(step.output), attributes["axis"], 0
    strides = strides_of(shape, len(shape))
    slots = _slots(len(shape))
    for each in step.inputs:
        given = to.shape(each)
        target = f"{begin * strides[axis]} + {place_of(slots, strides)}"
        _copy(to, step, given, target, each, place_of(slots, strides_of(given, len(given))))
        begin += given[axis]


def _take(to: Writer, step: Step, attributes: Mapping[str, Any]) -> None:
    x, indices = step.inputs
    axis, shape, given = attributes["axis"], to.shape(step.output), to.shape(x)
    count = len(to.shape(indices))
    slots = _slots(len(shape))
    index = place_of(slots[axis : axis + count], strides_of(to.shape(indices), count))
    places = [*slots[:axis], f"{to.read(indices)}[{index}]", *slots[axis + count :]]
    target = place_of(slots, strides_of(shape, len(shape)))
    _copy(to, step, shape, target, x, place_of(places, strides_of(given, len(given))))


MOVING: dict[str, Callable[[Writer, Step, Mapping[str, Any]], None]] = {
    **dict.fromkeys(("broadcast", "part", "transpose"), _moved),
    **dict.fromkeys(("pad", "spread"), _around),
    "concatenate": _concatenate,
    "take": _take,
}
