"""PyTorch operators that only move values, in the terms of ``integer/dataflow``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition


def _nearest(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given.get("self", given.get("input")), shapes[0]
    for axis in range(2, len(shape)):
        positions = torch.arange(x.shape[axis], dtype=torch.float32).reshape(1, 1, -1)
        at = torch.nn.functional.interpolate(positions, size=(shape[axis],), mode="nearest").reshape(-1).long()
        made = [*x.shape[:axis], shape[axis], *x.shape[axis + 1 :]]
        x = to.node("take", [x, at], made, axis=axis)
    return x


def _reshape(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return to.node("reshape", [given["self"]], shapes[0], sizes=list(shapes[0]))


def transpose(to: Translation, x: Any, axes: Sequence[int]) -> Node:
    """Axes in another order."""
    axes = [axis % len(x.shape) for axis in axes]
    return to.node("transpose", [x], [x.shape[axis] for axis in axes], axes=axes)


def _permute(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return transpose(to, given["self"], given["dims"])


def _swap(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    axes = list(range(len(shapes[0])))
    one, two = (given["dim0"], given["dim1"]) if "dim0" in given else (-2, -1)
    axes[one], axes[two] = axes[two], axes[one]
    return transpose(to, given["self"], axes)


def _shuffle_channels(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    (samples, channels, *rest), groups = shapes[0], given["groups"]
    return _regrouped(to, given["self"], (samples, groups, channels // groups, *rest), (0, 2, 1), shapes[0])


def _shuffle_pixels(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, by = given["self"], given["upscale_factor"]
    samples, channels, height, width = x.shape
    split = (samples, channels // by**2, by, by, height, width)
    return _regrouped(to, x, split, (0, 1, 4, 2, 5, 3), shapes[0])


def _regrouped(to: Translation, x: Node, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> Node:
    """Reshape, reorder the axes, and reshape back."""
    axes = [*order, *range(len(order), len(split))]
    x = transpose(to, to.node("reshape", [x], split, sizes=list(split)), axes)
    return to.node("reshape", [x], shape, sizes=list(shape))


def _expand(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return to.node("broadcast", [given["self"]], shapes[0], sizes=list(shapes[0]))


def _slice(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    axis = given["dim"] % len(x.shape)
    chosen = range(x.shape[axis])[slice(given["start"], given["end"], given["step"])]
    return _along(to, x, axis, chosen)


def _along(to: Translation, x: Any, axis: int, chosen: range) -> Node:
    starts, stops, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], stops[axis], steps[axis] = chosen.start, chosen.stop, chosen.step
    return part(to, x, starts, stops, steps)


def _select(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    axis = given["dim"] % len(x.shape)
    at = given["index"] % x.shape[axis]
    part = _along(to, x, axis, range(at, at + 1))
    return to.node("reshape", [part], shapes[0], sizes=list(shapes[0]))


def _split(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    axis = given["dim"] % len(x.shape)
    ends = np.cumsum([shape[axis] for shape in shapes]).tolist()
    return [_along(to, x, axis, range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _unbind(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return [_select(to, {**given, "index": index}, [shape]) for index, shape in enumerate(shapes)]


def _flip(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    for axis in given["dims"]:
        x = _along(to, x, axis % len(x.shape), range(x.shape[axis] - 1, -1, -1))
    return x


def _roll(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    for shift, axis in zip(given["shifts"], given["dims"], strict=True):
        axis = axis % len(x.shape)
        indices = np.roll(np.arange(x.shape[axis]), shift)
        x = to.node("take", [x, indices], x.shape, axis=axis)
    return x


def _index(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, indices = given["self"], given["indices"]
    places = [axis for axis, each in enumerate(indices) if each is not None]
    if len(places) != 1 or isinstance(indices[places[0]], Node) or indices[places[0]].ndim != 1:
        raise no_definition("indexing by several tensors", to.name)
    return to.node("take", [x, indices[places[0]] % x.shape[places[0]]], shapes[0], axis=places[0])


def _pad(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x = given["self"]
    if given.get("mode", "constant") != "constant":
        return _repeated(to, x, given["pad"], _MODES[given["mode"]])
    pairs = list(zip(given["pad"][::2], given["pad"][1::2], strict=True))[::-1]
    padding = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    starts = [max(0, -before) for before, _ in padding]
    stops = [size - max(0, -after) for size, (_, after) in zip(x.shape, padding, strict=True)]
    if any(starts) or stops != list(x.shape):
        x = part(to, x, starts, stops, [1] * len(starts))
        padding = [(max(0, before), max(0, after)) for before, after in padding]
    return to.node("pad", [x], shapes[0], padding=padding, value=float(given["value"] or 0))


_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _repeated(to: Translation, x: Any, pad: Sequence[int], mode: str) -> Any:
    """Pad a tensor with its own values, chosen by a mode of ``numpy.pad``."""
    for back, ends in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = len(x.shape) - 1 - back
        places = np.pad(np.arange(x.shape[axis]), ends, mode)  # type: ignore[call-overload]
        made = [len(places) if at == axis else size for at, size in enumerate(x.shape)]
        x = to.node("take", [x, places], made, axis=axis)
    return x


def _reflected(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return _repeated(to, given["self"], given["padding"], "reflect")


def _replicated(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return _repeated(to, given["self"], given["padding"], "edge")


def _concatenate(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    parts = [each for each in given["tensors"] if tuple(each.shape) != (0,)]  # an empty cache
    return to.node("concatenate", parts, shapes[0], axis=given["dim"] % len(shapes[0]))


def _stack(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    axis = given["dim"] % len(shapes[0])
    one = [1 if at == axis else size for at, size in enumerate(shapes[0])]
    parts = [
        each.reshape(one) if isinstance(each, torch.Tensor) else to.node("reshape", [each], one, sizes=one)
        for each in given["tensors"]
    ]
    return to.node("concatenate", parts, shapes[0], axis=axis)


def _embedding(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return to.node("take", [given["weight"], given["indices"]], shapes[0], axis=0)


def cut(to: Translation, x: Node, padding: Sequence[Sequence[int]]) -> tuple[Node, list[tuple[int, int]]]:
    """Crop by negative padding."""
    starts = [0, 0, *(max(0, -before) for before, _ in padding)]
    stops = [*x.shape[:2], *(size - max(0, -after) for size, (_, after) in zip(x.shape[2:], padding, strict=True))]
    kept = part(to, x, starts, stops, [1] * len(starts))
    return kept, [(max(0, before), max(0, after)) for before, after in padding]


def part(to: Translation, x: Node, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Node:
    """A part along each axis."""
    shape = [len(range(*each)) for each in zip(starts, stops, steps, strict=True)]
    return to.node("part", [x], shape, starts=list(starts), stops=list(stops), steps=list(steps))


MOVES: dict[str, Callable[..., Any]] = {
    "_unsafe_view": _reshape,
    "cat": _concatenate,
    "channel_shuffle": _shuffle_channels,
    "constant_pad_nd": _pad,
    "embedding": _embedding,
    "expand": _expand,
    "flip": _flip,
    "index": _index,
    "pad": _pad,
    "permute": _permute,
    "pixel_shuffle": _shuffle_pixels,
    "reflection_pad1d": _reflected,
    "reflection_pad2d": _reflected,
    "replication_pad1d": _replicated,
    "replication_pad2d": _replicated,
    "reshape": _reshape,
    "roll": _roll,
    "select": _select,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "t": _swap,
    "transpose": _swap,
    "unbind": _unbind,
    "unsqueeze": _reshape,
    "upsample_nearest2d": _nearest,
    "view": _reshape,
}
