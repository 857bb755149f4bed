"""TensorFlow operators that only move values, in the terms of ``integer/dataflow``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition

from trainable_quantizers_keras.deploy.evaluation import evaluated


def moved(to: Translation, x: Any, axes: Sequence[int]) -> Node:
    """Axes in another order."""
    if list(axes) == sorted(axes):
        return x  # type: ignore[no-any-return]
    return to.node("transpose", [x], [x.shape[axis] for axis in axes], axes=list(axes))


def reshaped(to: Translation, x: Any, sizes: Sequence[int]) -> Node:
    """The same values in another shape."""
    return to.node("reshape", [x], sizes, sizes=list(map(int, sizes)))


def _concatenate(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return to.node("concatenate", inputs[:-1], shape, axis=int(inputs[-1]) % len(shape))


def _pack(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    axis = operation.get_attr("axis") % len(shape)
    one = [1 if at == axis else size for at, size in enumerate(shape)]
    parts = [each.reshape(one) if isinstance(each, np.ndarray) else reshaped(to, each, one) for each in inputs]
    return to.node("concatenate", parts, shape, axis=axis)


def _unpack(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> list[Node]:
    axis = operation.get_attr("axis") % len(inputs[0].shape)
    chosen = [range(at, at + 1) for at in range(inputs[0].shape[axis])]
    return [reshaped(to, _along(to, inputs[0], axis, each), shape) for each in chosen]


def _along(to: Translation, x: Any, axis: int, chosen: range) -> Node:
    return _part(to, x, [chosen if at == axis else range(size) for at, size in enumerate(x.shape)])


def _part(to: Translation, x: Any, chosen: Sequence[range]) -> Node:
    ends = {"starts": [each.start for each in chosen], "stops": [each.stop for each in chosen]}
    return to.node("part", [x], [len(each) for each in chosen], **ends, steps=[each.step for each in chosen])


def _split(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> list[Node]:
    at, x = (2, inputs[0]) if operation.type == "SplitV" else (0, inputs[1])
    axis = int(inputs[at]) % len(x.shape)
    ends = np.cumsum([tensor.shape[axis] for tensor in operation.outputs]).tolist()
    return [_along(to, x, axis, range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _slice(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, begin, _ = inputs
    return _part(to, x, [range(int(start), int(start) + size) for start, size in zip(begin, shape, strict=True)])


def _strided_slice(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, begin, end, strides = inputs
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    begins, ends, ellipsis, new, shrink = (operation.get_attr(mask) for mask in masks)
    chosen: list[range] = []
    given = len(begin)
    for at in range(given):
        bit, rank = 1 << at, len(x.shape)
        if new & bit:
            continue
        if ellipsis & bit:
            after = sum(not new & (1 << later) for later in range(at + 1, given))
            chosen += [range(size) for size in x.shape[len(chosen) : rank - after]]
            continue
        whole = range(x.shape[len(chosen)])
        if shrink & bit:
            place = whole[int(begin[at])]
            chosen.append(range(place, place + 1))
        else:
            first, last = (None if mask & bit else int(ends_of[at]) for mask, ends_of in ((begins, begin), (ends, end)))
            chosen.append(whole[slice(first, last, int(strides[at]))])
    chosen += [range(size) for size in x.shape[len(chosen) :]]
    return reshaped(to, _part(to, x, chosen), shape)


def _pad(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    value = float(inputs[2]) if operation.type == "PadV2" else 0.0
    return to.node("pad", inputs[:1], shape, padding=np.asarray(inputs[1]).tolist(), value=value)


def _mirrored(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x = inputs[0]
    mode = operation.get_attr("mode").decode().lower()
    for axis, ends in enumerate(np.asarray(inputs[1])):
        if ends.any():
            places = np.pad(np.arange(x.shape[axis]), ends, mode)
            x = _taken(to, x, axis, places)
    return x  # type: ignore[no-any-return]


def _taken(to: Translation, x: Any, axis: int, places: np.ndarray) -> Node:
    shape = [len(places) if at == axis else size for at, size in enumerate(x.shape)]
    return to.node("take", (x, places.astype(np.int64)), shape, axis=axis)


def _nearest(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x = inputs[0]
    for axis in (1, 2):
        ramp = np.arange(x.shape[axis], dtype=np.float32).reshape([-1 if at == axis else 1 for at in range(4)])
        size = np.where(np.arange(1, 3) == axis, shape[1:3], 1).astype(np.int32)
        x = _taken(to, x, axis, evaluated(operation, [ramp, size])[0].reshape(-1))
    return x  # type: ignore[no-any-return]


def _gather(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, indices, axis = inputs
    indices = _without_negative(indices)
    if operation.get_attr("batch_dims"):
        raise no_definition("gather in batches", to.name)
    if isinstance(indices, np.ndarray) and indices.ndim != 1:
        axis = int(axis) % len(x.shape)
        return reshaped(to, _taken(to, x, axis, indices.reshape(-1)), shape)
    return to.node("take", (x, indices), shape, axis=int(axis) % len(x.shape))


def _without_negative(indices: Any) -> Any:
    """The indices that a network is given, where Keras lets negative ones count from the end."""
    if isinstance(indices, Node) and indices.kind == "where":
        condition, _, given = indices.inputs
        if isinstance(condition, Node) and condition.kind == "less" and condition.inputs[0] is given:
            return given
    return indices


def _tile(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, counts = inputs
    for axis, count in enumerate(np.asarray(counts)):
        if count > 1:
            x = _taken(to, x, axis, np.tile(np.arange(x.shape[axis]), count))
    return x  # type: ignore[no-any-return]


def _transpose(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return moved(to, inputs[0], [int(axis) for axis in inputs[1]])


def _reshape(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return reshaped(to, inputs[0], shape)


def _broadcast(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return to.node("broadcast", inputs[:1], shape, sizes=list(shape))


def _to_batch(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    """SpaceToBatchND: dilated convolutions."""
    x, block, pads = inputs[0], [int(each) for each in inputs[1]], np.asarray(inputs[2]).tolist()
    rank = len(block)
    padding = [[0, 0], *pads, *[[0, 0]] * (len(x.shape) - rank - 1)]
    sizes = [size + sum(ends) for size, ends in zip(x.shape, padding, strict=True)]
    x = to.node("pad", [x], sizes, padding=padding, value=0.0)
    split = [n for size, by in zip(sizes[1:], block, strict=False) for n in (size // by, by)]
    x = reshaped(to, x, [sizes[0], *split, *sizes[rank + 1 :]])
    whole = range(1, 2 * rank + 1)
    order = [*whole[1::2], 0, *whole[::2], *range(2 * rank + 1, len(x.shape))]
    return reshaped(to, moved(to, x, order), shape)


def _to_space(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    """BatchToSpaceND: back from dilated convolutions."""
    x, block, crops = inputs[0], [int(each) for each in inputs[1]], np.asarray(inputs[2]).tolist()
    rank = len(block)
    sizes = list(x.shape)
    x = reshaped(to, x, [*block, sizes[0] // math.prod(block), *sizes[1:]])
    order = [rank, *(n for at in range(rank) for n in (rank + 1 + at, at)), *range(2 * rank + 1, len(x.shape))]
    x = moved(to, x, order)
    whole = [size * by for size, by in zip(sizes[1:], block, strict=False)]
    x = reshaped(to, x, [shape[0], *whole, *sizes[rank + 1 :]])
    kept = [range(start, size - end) for size, (start, end) in zip(whole, crops, strict=True)]
    return _part(to, x, [range(shape[0]), *kept, *map(range, sizes[rank + 1 :])])


MOVES: dict[str, Callable[..., Any]] = {
    "BatchToSpaceND": _to_space,
    "BroadcastTo": _broadcast,
    "ConcatV2": _concatenate,
    "ExpandDims": _reshape,
    "GatherV2": _gather,
    "MirrorPad": _mirrored,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "ResizeNearestNeighbor": _nearest,
    "Slice": _slice,
    "SpaceToBatchND": _to_batch,
    "Split": _split,
    "SplitV": _split,
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
}
