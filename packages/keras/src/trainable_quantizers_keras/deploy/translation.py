"""Operations of TensorFlow in the words of ``trainable_quantizers_core.integer``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.dataflow import Node, no_definition
from trainable_quantizers_core.integer.rules import window_counts

ELEMENTWISE = {
    "Abs": "absolute",
    "Add": "add",
    "AddV2": "add",
    "Cos": "cosine",
    "Elu": "elu",
    "Equal": "equal",
    "Erf": "erf",
    "Erfc": "erfc",
    "Exp": "exp",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "LeakyRelu": "leaky_relu",
    "Less": "less",
    "LessEqual": "less_equal",
    "Log": "logarithm",
    "LogicalAnd": "logical_and",
    "LogicalNot": "logical_not",
    "LogicalOr": "logical_or",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Mul": "multiply",
    "Neg": "negate",
    "NotEqual": "not_equal",
    "Pow": "power",
    "RealDiv": "divide",
    "Rsqrt": "rsqrt",
    "SelectV2": "where",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Sin": "sine",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "square_root",
    "Square": "square",
    "Sub": "subtract",
    "Tanh": "tanh",
}
"""Operations that compute each value from the values at the same place: ours by TensorFlow's names."""
CLIPS = {"Relu": (0.0, None), "Relu6": (0.0, 6.0)}
SAME = {"Cast", "Identity", "IdentityN", "PreventGradient", "Snapshot", "StopGradient"}
"""Operations that change no value in evaluation."""


@dataclass(eq=False)
class Translation:
    """The nodes of a graph while it is walked through.

    Args:
        nodes: Those that it has so far.
        name: Of the layer at work.
        rounding: How quantizers round ties.
    """

    nodes: list[Node] = field(default_factory=list)
    name: str = ""
    rounding: RoundingRule = RoundingRule.HALF_UP

    def node(
        self, kind: str, inputs: Sequence[Any], shape: Sequence[int], function: Any = None, **attributes: Any
    ) -> Node:
        """A new node."""
        made = Node(kind, self.name, tuple(inputs), tuple(shape), attributes, function)
        self.nodes.append(made)
        return made

    def call(self, operation: Any, inputs: Sequence[Any]) -> list[Any]:
        """What an operation gives for nodes and constants: nodes, or constants if it reads no node."""
        kind, known = operation.type, [tensor.shape for tensor in operation.outputs]
        shapes = [tuple(shape) if shape.rank is not None else () for shape in known]
        if kind == "Shape":
            return [np.array(inputs[0].shape, operation.outputs[0].dtype.as_numpy_dtype)]
        if not any(isinstance(each, Node) for each in inputs):
            return _evaluated(operation, inputs)
        if kind in SAME:
            return list(inputs)
        if kind in ELEMENTWISE or kind in CLIPS or kind == "ClipByValue":
            return [self._elementwise(operation, inputs, shapes[0])]
        rule = _RULES.get(kind)
        if rule is None or not known[0].is_fully_defined():
            raise no_definition(kind if rule is None else f"{kind} of unknown shape", self.name)
        found = rule(self, operation, inputs, shapes[0])
        return found if isinstance(found, list) else [found]

    def _elementwise(self, operation: Any, inputs: Sequence[Any], shape: Sequence[int]) -> Node:
        def function(*arrays: np.ndarray) -> np.ndarray:
            given = iter(arrays)
            filled = [next(given) if isinstance(each, Node) else each for each in inputs]
            return _evaluated(operation, filled)[0]  # type: ignore[no-any-return]

        kind = ELEMENTWISE.get(operation.type, "clip")
        if kind == "leaky_relu":
            return self.node(kind, inputs, shape, function, slope=operation.get_attr("alpha"))
        if kind != "clip":
            biased = _biased(self, inputs, shape) if kind == "add" else None
            return biased or self.node(kind, inputs, shape, function)
        low, high = CLIPS.get(operation.type) or (float(each) for each in inputs[1:])
        return self.node("clip", inputs[:1], shape, function, low=low, high=high)


def _evaluated(operation: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The results of an operation for arrays."""
    if operation.type == "Const":
        return [tf.make_ndarray(operation.get_attr("value"))]
    if not all(tensor.dtype.is_numpy_compatible for tensor in operation.outputs):
        raise no_definition(operation.type, operation.name)
    with tf.Graph().as_default() as graph:
        given = {f"given_{at}": tf.constant(each) for at, each in enumerate(inputs)}
        alone = tf.compat.v1.GraphDef()
        node = alone.node.add()
        node.CopyFrom(operation.node_def)
        node.name = "alone"
        del node.input[:]
        node.input.extend(given)
        names = [f"alone:{at}" for at in range(len(operation.outputs))]
        results = tf.import_graph_def(alone, given, names, name="")
        return tf.compat.v1.Session(graph=graph).run(results)  # type: ignore[no-any-return]


def _biased(to: Translation, inputs: Sequence[Any], shape: Sequence[int]) -> Node | None:
    """A layer with weights and the bias that is added to its result, as one."""
    for x, bias in (inputs, inputs[::-1]):
        sums = isinstance(x, Node) and x.kind in ("convolution", "matmul") and len(x.inputs) == 2 and x.shape == shape
        if sums and isinstance(bias, np.ndarray) and bias.ndim and bias.size == bias.shape[-1] == shape[-1]:
            weight = x.inputs[1]
            if isinstance(weight, np.ndarray) and (x.kind == "convolution" or weight.ndim == 2):
                return to.node(x.kind, (*x.inputs, bias.reshape(-1)), shape, **x.attributes)
    return None


def _bias_add(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return _biased(to, inputs, shape) or to.node("add", inputs, shape)


def _quantize(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    low, high = int(operation.get_attr("narrow_range")), 2 ** operation.get_attr("num_bits") - 1
    if operation.type == "FakeQuantWithMinMaxArgs":
        least, most = operation.get_attr("min"), operation.get_attr("max")
    else:
        least, most = (np.float32(np.asarray(each).reshape(())) for each in inputs[1:])
    step = np.float32(np.float32(most - least) / np.float32(high - low))
    zero = int(np.clip(np.floor(low - least / step + 0.5), low, high))
    rule = to.rounding.value
    return to.node("quantize", inputs[:1], shape, step=float(step), zero=zero, low=low, high=high, rule=rule)


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
    return _moved(to, spread, [order.index(each) for each in result])


def _arranged(to: Translation, x: Any, labels: str, order: Sequence[str], sizes: Sequence[int]) -> Any:
    axes = [labels.index(each) for each in order]
    if isinstance(x, np.ndarray):
        return x.transpose(axes).reshape(sizes)
    return _reshaped(to, _moved(to, x, axes), sizes)


def _moved(to: Translation, x: Any, axes: Sequence[int]) -> Node:
    if list(axes) == sorted(axes):
        return x  # type: ignore[no-any-return]
    return to.node("transpose", [x], [x.shape[axis] for axis in axes], axes=list(axes))


def _reshaped(to: Translation, x: Any, sizes: Sequence[int]) -> Node:
    return to.node("reshape", [x], sizes, sizes=list(map(int, sizes)))


def _batch_norm(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, scale, offset, mean, variance = inputs
    if operation.get_attr("is_training"):  # so Keras 2 computes layer norms
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


def _concatenate(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return to.node("concatenate", inputs[:-1], shape, axis=int(inputs[-1]) % len(shape))


def _pack(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    axis = operation.get_attr("axis") % len(shape)
    one = [1 if at == axis else size for at, size in enumerate(shape)]
    parts = [each.reshape(one) if isinstance(each, np.ndarray) else _reshaped(to, each, one) for each in inputs]
    return to.node("concatenate", parts, shape, axis=axis)


def _unpack(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> list[Node]:
    axis = operation.get_attr("axis") % len(inputs[0].shape)
    chosen = [range(at, at + 1) for at in range(inputs[0].shape[axis])]
    return [_reshaped(to, _along(to, inputs[0], axis, each), shape) for each in chosen]


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
    return _reshaped(to, _part(to, x, chosen), shape)


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
        x = _taken(to, x, axis, _evaluated(operation, [ramp, size])[0].reshape(-1))
    return x  # type: ignore[no-any-return]


def _gather(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    x, indices, axis = inputs
    indices = _without_negative(indices)
    if operation.get_attr("batch_dims"):
        raise no_definition("gather in batches", to.name)
    if isinstance(indices, np.ndarray) and indices.ndim != 1:
        axis = int(axis) % len(x.shape)
        return _reshaped(to, _taken(to, x, axis, indices.reshape(-1)), shape)
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
    return _moved(to, inputs[0], [int(axis) for axis in inputs[1]])


def _reshape(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    return _reshaped(to, inputs[0], shape)


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
    x = _reshaped(to, x, [sizes[0], *split, *sizes[rank + 1 :]])
    whole = range(1, 2 * rank + 1)
    order = [*whole[1::2], 0, *whole[::2], *range(2 * rank + 1, len(x.shape))]
    return _reshaped(to, _moved(to, x, order), shape)


def _to_space(to: Translation, operation: Any, inputs: Sequence[Any], shape: Any) -> Node:
    """BatchToSpaceND: back from dilated convolutions."""
    x, block, crops = inputs[0], [int(each) for each in inputs[1]], np.asarray(inputs[2]).tolist()
    rank = len(block)
    sizes = list(x.shape)
    x = _reshaped(to, x, [*block, sizes[0] // math.prod(block), *sizes[1:]])
    order = [rank, *(n for at in range(rank) for n in (rank + 1 + at, at)), *range(2 * rank + 1, len(x.shape))]
    x = _moved(to, x, order)
    whole = [size * by for size, by in zip(sizes[1:], block, strict=False)]
    x = _reshaped(to, x, [shape[0], *whole, *sizes[rank + 1 :]])
    kept = [range(start, size - end) for size, (start, end) in zip(whole, crops, strict=True)]
    return _part(to, x, [range(shape[0]), *kept, *map(range, sizes[rank + 1 :])])


_RULES: dict[str, Callable[..., Any]] = {
    "AvgPool": _average_pool,
    "AvgPool3D": _average_pool,
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BatchToSpaceND": _to_space,
    "BiasAdd": _bias_add,
    "BroadcastTo": _broadcast,
    "ConcatV2": _concatenate,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3D": _convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
    "DepthwiseConv2dNative": _convolution,
    "Einsum": _einsum,
    "ExpandDims": _reshape,
    "FakeQuantWithMinMaxArgs": _quantize,
    "FakeQuantWithMinMaxVars": _quantize,
    "FusedBatchNormV3": _batch_norm,
    "GatherV2": _gather,
    "MatMul": _matmul,
    "Max": _reduction("largest"),
    "MaxPool": _max_pool,
    "MaxPool3D": _max_pool,
    "Mean": _reduction("mean"),
    "MirrorPad": _mirrored,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "ResizeNearestNeighbor": _nearest,
    "Slice": _slice,
    "Softmax": _softmax,
    "SpaceToBatchND": _to_batch,
    "Split": _split,
    "SplitV": _split,
    "SquaredDifference": _squared_difference,
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Sum": _reduction("total"),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
}
