"""TensorFlow operators that multiply, add, pool, normalize and quantize, in the terms of ``integer/dataflow``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition
from trainable_quantizers_core.integer.sum_rules import window_counts

from trainable_quantizers_keras.deploy.evaluation import evaluated
from trainable_quantizers_keras.deploy.moves import moved, reshaped


def biased(to: Translation, inputs: Sequence[Any], shape: Sequence[int]) -> Node | None:
    """A layer with weights and the bias that is added to its result, as one."""
    for x, bias in (inputs, inputs[::-1]):
        sums = isinstance(x, Node) and x.kind in ("convolution", "matmul") and len(x.inputs) == 2 and x.shape == shape
        if sums and isinstance(bias, np.ndarray) and bias.ndim and bias.size == bias.shape[-1] == shape[-1]:
            weight = x.inputs[1]
            if isinstance(weight, np.ndarray) and (x.kind == "convolution" or weight.ndim == 2):
                return to.node(x.kind, (*x.inputs, bias.reshape(-1)), shape, **x.attributes)
    return None


def _bias_add(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return biased(to, inputs, shape) or to.node("add", inputs, shape)


def _quantize(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    low, high = int(operation.get_attr("narrow_range")), 2 ** operation.get_attr("num_bits") - 1
    if operation.type == "FakeQuantWithMinMaxArgs":
        least, most = operation.get_attr("min"), operation.get_attr("max")
    else:
        least, most = (np.float32(np.asarray(each).reshape(())) for each in inputs[1:])
    step = np.float32(np.float32(most - least) / np.float32(high - low))
    zero = int(np.clip(np.floor(low - least / step + 0.5), low, high))
    rule = to.ties.of(to.name, RoundingRule.HALF_UP).value
    grid = {"step": float(step), "zero": zero, "low": low, "high": high}
    return to.node("quantize", inputs[:1], shape, **grid, rule=rule, from_lowest=True)


def _window(operation: Any, x: Node, window: Sequence[int], made: Sequence[int]) -> tuple[Any, Any, Any]:
    """Strides, padding and dilation of a convolution or pooling that gives the spatial sizes ``made``."""
    strides = list(operation.get_attr("strides"))[1:-1]
    dilation = [1] * len(window)
    if "dilations" in operation.node_def.attr:
        dilation = list(operation.get_attr("dilations"))[1:-1]
    kind = operation.get_attr("padding").decode()
    if kind == "EXPLICIT":
        ends = operation.get_attr("explicit_paddings")[2:-2]
        return strides, list(zip(ends[::2], ends[1::2], strict=True)), dilation
    return strides, _pads(kind, x.shape[1:-1], made, window, strides, dilation), dilation


def _pads(
    kind: str, sizes: Sequence[int], made: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Any
) -> list[tuple[int, int]]:
    if kind == "VALID":
        return [(0, 0)] * len(window)
    pads = []
    for size, count, length, stride, gap in zip(sizes, made, window, strides, dilation, strict=True):
        both = max((count - 1) * stride + gap * (length - 1) + 1 - size, 0)
        pads.append((both // 2, both - both // 2))
    return pads


def _convolution(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, weight = inputs
    if not isinstance(weight, np.ndarray) or _format(operation) != "last":
        raise no_definition(f"{operation.type} of two activations, or channels first", to.name)
    *window, per_group, made = weight.shape
    groups = x.shape[-1] // per_group
    if operation.type == "DepthwiseConv2dNative":
        groups = per_group
        weight = np.moveaxis(weight, (-2, -1), (0, 1)).reshape(per_group * made, 1, *window)
    else:
        weight = np.moveaxis(weight, (-1, -2), (0, 1))
    strides, padding, dilation = _window(operation, x, window, shape[1:-1])
    attributes = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return to.node("convolution", (x, weight), shape, channels_last=True, **attributes)


def _format(operation: Any) -> str:
    return "last" if operation.get_attr("data_format").decode() in ("NHWC", "NDHWC") else "first"


def _transposed_convolution(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    _, weight, x = inputs
    if not isinstance(weight, np.ndarray) or not isinstance(x, Node) or _format(operation) != "last":
        raise no_definition("transposed convolution of two activations, or channels first", to.name)
    *window, _, _ = weight.shape
    rank = len(window)
    strides = list(operation.get_attr("strides"))[1:-1]
    dilation = list(operation.get_attr("dilations"))[1:-1]
    kind = operation.get_attr("padding").decode()
    pads = _pads(kind, shape[1:-1], x.shape[1:-1], window, strides, dilation)
    sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[1:-1], strides, strict=True)]
    axes = list(range(1, rank + 1))
    x = to.node("spread", [x], (x.shape[0], *sizes, x.shape[-1]), axes=axes, factors=strides, after=[0] * rank)
    padding = []
    for size, made, length, gap, (before, _) in zip(sizes, shape[1:-1], window, dilation, pads, strict=True):
        span = gap * (length - 1)
        padding.append((span - before, made - size + before))
    flipped = np.flip(weight, tuple(range(rank)))
    attributes = {"strides": [1] * rank, "padding": padding, "dilation": dilation, "groups": 1}
    return to.node("convolution", (x, np.moveaxis(flipped, (-2, -1), (0, 1))), shape, channels_last=True, **attributes)


def _matmul(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    operands = [
        _swapped(to, each) if operation.get_attr(name) else each for name, each in zip(names, inputs, strict=True)
    ]
    return to.node("matmul", operands, shape)


def _swapped(to: Translation, x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np.swapaxes(x, -1, -2)
    axes = list(range(len(x.shape)))
    axes[-2:] = axes[:-3:-1]
    return to.node("transpose", [x], [x.shape[axis] for axis in axes], axes=axes)


def _einsum(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    """A product of two operands, as matrices: what both and the result have, what one has, what is summed over."""
    equation = operation.get_attr("equation").decode().replace(" ", "")
    terms, result = equation.split("->")
    labels = terms.split(",")
    plain = len(labels) == 2 and "." not in equation and all(len(set(each)) == len(each) for each in labels)
    if not plain or not set(result) <= set("".join(labels)):
        raise no_definition(f"einsum {equation}", to.name)
    one, two = labels
    stacked = [each for each in one if each in two and each in result]
    summed = [each for each in one if each in two and each not in result]
    rows, columns = ([each for each in own if each not in other] for own, other in ((one, two), (two, one)))
    if not set(rows + columns) <= set(result):
        raise no_definition(f"einsum {equation}", to.name)
    sizes = dict(zip(one + two, (*inputs[0].shape, *inputs[1].shape), strict=True))
    count = [math.prod(sizes[each] for each in group) for group in (rows, summed, columns)]
    outer = [sizes[each] for each in stacked]
    left = _arranged(to, inputs[0], one, stacked + rows + summed, [*outer, count[0], count[1]])
    right = _arranged(to, inputs[1], two, stacked + summed + columns, [*outer, count[1], count[2]])
    made = to.node("matmul", (left, right), (*outer, count[0], count[2]))
    order = stacked + rows + columns
    spread = to.node("reshape", [made], [sizes[each] for each in order], sizes=[sizes[each] for each in order])
    return moved(to, spread, [order.index(each) for each in result])


def _arranged(to: Translation, x: Any, labels: str, order: Sequence[str], sizes: Sequence[int]) -> Any:
    axes = [labels.index(each) for each in order]
    if isinstance(x, np.ndarray):
        return x.transpose(axes).reshape(sizes)
    return reshaped(to, moved(to, x, axes), sizes)


def _batch_norm(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, scale, offset, mean, variance = inputs
    if operation.get_attr("is_training"):  # Keras 2 computes layer norms in this way
        last = operation.get_attr("data_format").decode() == "NHWC"
        axes = [0, 1, 2] if last else [0, 2, 3]
        made = to.node("normalize", [x], shape, axes=axes, epsilon=operation.get_attr("epsilon"))
        if not (np.all(scale == 1) and np.all(offset == 0)):
            raise no_definition("FusedBatchNormV3 in training", to.name)
        return made
    factor = scale / np.sqrt(variance + np.float32(operation.get_attr("epsilon")))
    return to.node("add", (to.node("multiply", (x, factor), shape), offset - mean * factor), shape)


def _squared_difference(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return to.node("square", [to.node("subtract", inputs, shape)], shape)


def _softmax(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return to.node("softmax", inputs, shape, axis=len(shape) - 1)


def _linear_resizing(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    """Products with the matrix of each axis, which resizing the unit vectors gives."""
    x = inputs[0]
    for axis in (1, 2):
        count = x.shape[axis]
        units = np.eye(count, dtype=np.float32).reshape((1, count, 1, count) if axis == 1 else (1, 1, count, count))
        size = np.where(np.arange(1, 3) == axis, shape[1:3], 1).astype(np.int32)
        matrix = evaluated(operation, [units, size])[0].reshape(shape[axis], count).T
        last = moved(to, x, [at for at in range(4) if at != axis] + [axis])
        made = to.node("matmul", (last, matrix), (*last.shape[:-1], shape[axis]))
        x = moved(to, made, [0, 3, 1, 2] if axis == 1 else [0, 1, 3, 2])
    return x  # type: ignore[no-any-return]


def _reduction(kind: str) -> Callable[..., Node]:
    def rule(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
        rank = len(inputs[0].shape)
        axes = sorted(int(axis) % rank for axis in np.asarray(inputs[1]).reshape(-1))
        return to.node(kind, inputs[:1], shape, axes=axes, keep=bool(operation.get_attr("keep_dims")))

    return rule


def _max_pool(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    window = list(operation.get_attr("ksize"))[1:-1]
    strides, padding, dilation = _window(operation, inputs[0], window, shape[1:-1])
    attributes = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    return to.node("max_pool", inputs, shape, channels_last=True, **attributes)


def _average_pool(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    window = list(operation.get_attr("ksize"))[1:-1]
    strides, padding, _ = _window(operation, inputs[0], window, shape[1:-1])
    counts = window_counts(inputs[0].shape[1:-1], window, strides, padding, own=True)
    attributes = {"window": window, "strides": strides, "padding": padding, "counts": counts.tolist()}
    return to.node("average_pool", inputs, shape, channels_last=True, **attributes)


SUMS: dict[str, Callable[..., Any]] = {
    "AvgPool": _average_pool,
    "AvgPool3D": _average_pool,
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BiasAdd": _bias_add,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3D": _convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
    "DepthwiseConv2dNative": _convolution,
    "Einsum": _einsum,
    "FakeQuantWithMinMaxArgs": _quantize,
    "FakeQuantWithMinMaxVars": _quantize,
    "FusedBatchNormV3": _batch_norm,
    "MatMul": _matmul,
    "Max": _reduction("largest"),
    "MaxPool": _max_pool,
    "MaxPool3D": _max_pool,
    "Mean": _reduction("mean"),
    "ResizeBilinear": _linear_resizing,
    "Softmax": _softmax,
    "SquaredDifference": _squared_difference,
    "Sum": _reduction("total"),
}
