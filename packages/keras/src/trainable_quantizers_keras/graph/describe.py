"""Describes the call of a layer as an operation of the core's graph: kind, weights, work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.graph.operation import Operation, Weight

from trainable_quantizers_keras.graph.kinds import (
    clips,
    folds,
    has_bias,
    has_weight,
    is_identity,
    keeps_values,
    kind_of,
    scales,
    weights_of,
    word_of,
)
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import Call
from trainable_quantizers_keras.layers.copies import part_at, parts_of
from trainable_quantizers_keras.layers.weight import KerasWeight

INSIDE = "what it computes inside stays in float"


def operation_of(
    name: str, layer: Any, inputs: tuple[int, ...], call: Call | None, first: str, note: str, result: int = 0
) -> Operation:
    """An operation.

    Args:
        name: Of the operation.
        layer: The layer that is called.
        inputs: The operations that it reads.
        call: Its call in a graph; None if its calls are not visible.
        first: The name of the first call of the layer, if this is a later one.
        note: A note for the user.
        result: The index among the results of the call.
    """
    if isinstance(layer, keras.layers.InputLayer):
        return Operation(name, "input", "InputLayer", floating=is_floating(layer.dtype))
    if isinstance(layer, KerasWeight):
        return Operation(name, "constant", "weight", floating=is_floating(layer.weight_dtype))
    word, kind = word_of(layer), kind_of(layer)
    weights, parts = weights_of(layer), parts_of(layer)
    inside = ""
    if parts:
        weights = dict(_weights_inside(layer, ""))
        inside = INSIDE if getattr(layer, "weights", ()) else ""
        kind = ("linear" if inside else "function") if kind == "other" else kind
    elif len(weights) > 1:  # a separable convolution
        inside = INSIDE
    elif kind == "other" and not keeps_values(layer):
        own = bool(getattr(layer, "weights", ()))
        weights = {"kernel": -1} if own and has_weight(layer, "kernel") else {}
        kind = "linear" if weights else "function"
    owner = first or name
    return Operation(
        name=name,
        kind=kind,
        type=word,
        inputs=inputs,
        layer=owner,
        weights=tuple(Weight(path, axis, f"{owner}.{path}") for path, axis in weights.items()),
        bias="bias" if has_bias(layer) else "",
        work=_work(layer, call, kind, weights),
        clips=clips(layer),
        scales=scales(layer),
        folds=folds(layer),
        identity=is_identity(layer),
        floating=call is None or call.node is None or is_floating(call.results[result].dtype),
        inside=inside,
        note=note,
        sizes_only=word.lower() in ("shape", "size", "rank", "zeroslike", "zeros_like", "oneslike", "ones_like"),
    )


def is_floating(dtype: Any) -> bool:
    """Whether a type is that of floating numbers; None may be."""
    return dtype is None or tf.as_dtype(str(getattr(dtype, "name", dtype))).is_floating


def _work(layer: Any, call: Call | None, kind: str, weights: dict[str, int]) -> int:
    """Multiply-accumulates for one example; unknown lengths count as one."""
    shapes = _shapes(layer, call)
    if kind == "matmul" and len(shapes) == 2:
        (_, before), (_, after) = ([shape[0], _size(shape)] for shape in shapes)
        return int(after * (shapes[0][-1] or 1)) if before else 0
    if not weights or not shapes or kind == "embedding":
        return 0
    numbers = sum(prod(_weight_shape(layer, path)) for path in weights)
    before, after = shapes[0], shapes[-1]
    if kind in ("conv", "depthwise_conv"):
        return _positions(layer, after) * numbers
    if kind == "conv_transpose":
        return _positions(layer, before) * numbers
    return _size(before[:-1]) * numbers


def work_of_function(call: Call, kind: str, weights: Sequence[tuple[int, ...]]) -> int:
    """Multiply-accumulates for one example of a convolution that is a function."""
    shapes = _shapes(call.layer, call)
    if kind not in ("conv", "depthwise_conv", "conv_transpose") or not shapes:
        return 0
    where = shapes[0] if kind == "conv_transpose" else shapes[-1]
    return _positions(call.layer, where) * sum(map(prod, weights))


def _shapes(layer: Any, call: Call | None) -> list[Any]:
    """The shapes of the first input and of the first result."""
    try:
        if call is not None and call.node is not None:
            first = [before.results[at] for before, at in call.arguments[:1]]
            tensors = [*first, call.results[0]]
        else:
            tensors = [tf.nest.flatten(layer.input)[0], tf.nest.flatten(layer.output)[0]]
    except (AttributeError, ValueError, RuntimeError):  # a layer that no graph calls has neither
        return []
    return [tuple(tensor.shape) for tensor in tensors]


def _size(shape: Any) -> int:
    return prod(size or 1 for size in shape[1:])


def _positions(layer: Any, shape: Any) -> int:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return prod(size or 1 for size in (shape[1:-1] if last else shape[2:]))


def _weight_shape(layer: Any, path: str) -> tuple[int, ...]:
    owner, _, name = path.rpartition(".")
    return tuple(getattr(part_at(layer, owner), name).shape)


def _weights_inside(layer: Any, path: str) -> Iterator[tuple[str, int]]:
    """The weights of the layers inside a layer, at any depth."""
    for name, part in parts_of(layer).items():
        inside = f"{path}{name}"
        for weight, axis in weights_of(part).items():
            yield f"{inside}.{weight}", axis
        yield from _weights_inside(part_at(layer, name), f"{inside}.")
