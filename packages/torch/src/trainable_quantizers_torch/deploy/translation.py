"""Operators of PyTorch in the words of ``trainable_quantizers_core.integer``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.dataflow import Node, no_definition
from trainable_quantizers_core.integer.rules import window_counts

ELEMENTWISE = {
    "abs": "absolute",
    "add": "add",
    "clamp": "clip",
    "cos": "cosine",
    "div": "divide",
    "elu": "elu",
    "eq": "equal",
    "erf": "erf",
    "exp": "exp",
    "ge": "greater_equal",
    "gelu": "gelu",
    "gt": "greater",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "hardtanh": "clip",
    "le": "less_equal",
    "leaky_relu": "leaky_relu",
    "log": "logarithm",
    "logical_and": "logical_and",
    "logical_not": "logical_not",
    "logical_or": "logical_or",
    "lt": "less",
    "maximum": "maximum",
    "minimum": "minimum",
    "mish": "mish",
    "mul": "multiply",
    "ne": "not_equal",
    "neg": "negate",
    "pow": "power",
    "relu": "clip",
    "relu6": "clip",
    "rsqrt": "rsqrt",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "sin": "sine",
    "softplus": "softplus",
    "sqrt": "square_root",
    "sub": "subtract",
    "tanh": "tanh",
    "where": "where",
}
"""Operators that compute each value from the values at the same place: ours by PyTorch's names."""
SAME = {
    "_assert_tensor_metadata",
    "_to_copy",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "lift_fresh_copy",
    "to",
}
"""Operators that change no value in evaluation."""


@dataclass(eq=False)
class Translation:
    """The nodes of a graph while it is walked through.

    Args:
        nodes: Those that it has so far.
        name: Of the module at work.
        rounding: How quantizers round ties.
    """

    nodes: list[Node] = field(default_factory=list)
    name: str = ""
    rounding: RoundingRule = RoundingRule.HALF_EVEN

    def node(
        self, kind: str, inputs: Sequence[Any], shape: Sequence[int], function: Any = None, **attributes: Any
    ) -> Node:
        """A new node."""
        inputs = tuple(each.detach().cpu().numpy() if isinstance(each, torch.Tensor) else each for each in inputs)
        made = Node(kind, self.name, inputs, tuple(shape), attributes, function)
        self.nodes.append(made)
        return made

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Any]) -> Any:
        """What an operator gives for nodes and constants: nodes, or a constant if it reads no node."""
        if target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(leaf, Node) for leaf in _pytree.tree_leaves((args, kwargs))):
            return target(*args, **kwargs)
        word = target._schema.name.removeprefix("aten::")
        named = {argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
        given = {**defaults, **named, **kwargs}
        if word in SAME:
            return next(iter(given.values()))
        if word in ELEMENTWISE:
            return self._elementwise(word, target, args, kwargs, given, shapes[0])
        rule = _RULES.get(word)
        if rule is None:
            raise no_definition(f"aten.{word}", self.name)
        return rule(self, given, shapes)

    def _elementwise(
        self, word: str, target: Any, args: Any, kwargs: Any, given: Mapping[str, Any], shape: Sequence[int]
    ) -> Node:
        leaves, structure = _pytree.tree_flatten((args, kwargs))

        def function(*arrays: np.ndarray) -> np.ndarray:
            tensors = iter(map(torch.from_numpy, arrays))
            filled = [next(tensors) if isinstance(leaf, Node) else leaf for leaf in leaves]
            again, options = _pytree.tree_unflatten(filled, structure)
            return target(*again, **options).numpy()  # type: ignore[no-any-return]

        kind, attributes = ELEMENTWISE[word], {}
        inputs = [np.float32(leaf) if isinstance(leaf, (int, float)) else leaf for leaf in _inputs(args, kwargs)]
        if kind == "clip":
            low, high = _CLIPS[word](given)
            inputs, attributes = inputs[:1], {"low": low, "high": high}
        elif word in ("add", "sub") and given["alpha"] != 1:
            raise no_definition(f"aten.{word} with alpha", self.name)
        elif kind == "leaky_relu":
            inputs, attributes = inputs[:1], {"slope": given["negative_slope"]}
        elif kind not in _SEVERAL:
            inputs = inputs[:1]
            attributes = {key: value for key, value in given.items() if key not in ("self", "input")}
        return self.node(kind, inputs, shape, function, **attributes)


_SEVERAL = {"absolute", "negate"} | {"add", "divide", "maximum", "minimum", "multiply", "power", "subtract", "where"}
_SEVERAL |= {"equal", "greater", "greater_equal", "less", "less_equal", "not_equal", "logical_and", "logical_or"}
_CLIPS: dict[str, Callable[[Mapping[str, Any]], tuple[Any, Any]]] = {
    "clamp": lambda given: (given["min"], given["max"]),
    "hardtanh": lambda given: (given["min_val"], given["max_val"]),
    "relu": lambda given: (0.0, None),
    "relu6": lambda given: (0.0, 6.0),
}


def _inputs(args: Any, kwargs: Any) -> list[Any]:
    return [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if leaf is not None and not isinstance(leaf, bool)]


def _quantize(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    attributes = {
        "step": float(given["scale"]),
        "zero": int(given["zero_point"]),
        "low": int(given["quant_min"]),
        "high": int(given["quant_max"]),
        "rule": to.rounding.value,
    }
    return to.node("quantize", [given["self"]], shapes[0], **attributes)


def _quantize_with_mask(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return (_quantize(to, given, shapes), None)


def _convolution(to: Translation, given: Mapping[str, Any], shapes: Any, transposed: bool = False) -> Any:
    x, weight, bias, groups = (given[each] for each in ("input", "weight", "bias", "groups"))
    rank = len(x.shape) - 2
    strides, dilation = _several(given["stride"], rank), _several(given["dilation"], rank)
    spans = [gap * (length - 1) for gap, length in zip(dilation, weight.shape[2:], strict=True)]
    if isinstance(given["padding"], str):
        padding = [(span // 2, span - span // 2) if given["padding"] == "same" else (0, 0) for span in spans]
    else:
        padding = [(each, each) for each in _several(given["padding"], rank)]
    if transposed or given.get("transposed"):
        if not isinstance(weight, torch.Tensor):
            raise no_definition("transposed convolution of two activations", to.name)
        axes = list(range(2, rank + 2))
        sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)]
        x = to.node("spread", [x], (*x.shape[:2], *sizes), axes=axes, factors=strides, after=[0] * rank)
        parts = weight.flip(axes).chunk(groups)
        weight = torch.cat([part.transpose(0, 1) for part in parts])
        more = _several(given["output_padding"], rank)
        padding = [(span - pad, span - pad + after) for span, (pad, _), after in zip(spans, padding, more, strict=True)]
        strides = [1] * rank
        if min(end for pads in padding for end in pads) < 0:
            x, padding = _cut(to, x, padding)
    inputs = [each for each in (x, weight, bias) if each is not None]
    attributes = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return to.node("convolution", inputs, shapes[0], channels_last=False, **attributes)


def _transposed_convolution(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return _convolution(to, given, shapes, transposed=True)


def _cut(to: Translation, x: Node, padding: Sequence[Sequence[int]]) -> tuple[Node, list[tuple[int, int]]]:
    """Take off what a negative padding takes off."""
    starts = [0, 0, *(max(0, -before) for before, _ in padding)]
    stops = [*x.shape[:2], *(size - max(0, -after) for size, (_, after) in zip(x.shape[2:], padding, strict=True))]
    part = _part(to, x, starts, stops, [1] * len(starts))
    return part, [(max(0, before), max(0, after)) for before, after in padding]


def _part(to: Translation, x: Node, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Node:
    shape = [len(range(*each)) for each in zip(starts, stops, steps, strict=True)]
    return to.node("part", [x], shape, starts=list(starts), stops=list(stops), steps=list(steps))


def _linear(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    weight = given["weight"]
    weight = weight.T if isinstance(weight, torch.Tensor) else _transpose(to, weight, [1, 0])
    return _product(to, given["input"], weight, given["bias"], shapes[0])


def _addmm(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    if given["beta"] != 1 or given["alpha"] != 1:
        raise no_definition("addmm with alpha or beta", to.name)
    return _product(to, given["mat1"], given["mat2"], given["self"], shapes[0])


def _matmul(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    other = given.get("mat2", given.get("other"))
    return _product(to, given["self"], other, None, shapes[0])


def _product(to: Translation, x: Any, other: Any, bias: Any, shape: Sequence[int]) -> Node:
    if bias is None or not isinstance(bias, torch.Tensor) or bias.ndim != 1 or not isinstance(other, torch.Tensor):
        made = to.node("matmul", [x, other], shape)
        return made if bias is None else to.node("add", [made, bias], shape)
    return to.node("matmul", [x, other, bias], shape)


def _batch_norm(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given["input"], shapes[0]
    scale = torch.rsqrt(given["running_var"] + given["eps"])
    scale = scale if given["weight"] is None else scale * given["weight"]
    shift = -given["running_mean"] * scale
    shift = shift if given["bias"] is None else shift + given["bias"]
    along = [1, -1, *[1] * (len(shape) - 2)]
    scaled = to.node("multiply", [x, scale.reshape(along)], shape)
    return (to.node("add", [scaled, shift.reshape(along)], shape), None, None)


def _layer_norm(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given["input"], shapes[0]
    axes = list(range(len(shape) - len(given["normalized_shape"]), len(shape)))
    made = to.node("normalize", [x], shape, axes=axes, epsilon=given["eps"])
    return (_affine(to, made, given["weight"], given["bias"], shape), None, None)


def _affine(to: Translation, x: Node, weight: Any, bias: Any, shape: Sequence[int]) -> Node:
    x = x if weight is None else to.node("multiply", [x, weight], shape)
    return x if bias is None else to.node("add", [x, bias], shape)


def _group_norm(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape, groups = given["input"], shapes[0], given["group"]
    grouped = (shape[0], groups, shape[1] // groups, *shape[2:])
    made = to.node("reshape", [x], grouped, sizes=grouped)
    made = to.node("normalize", [made], grouped, axes=list(range(2, len(grouped))), epsilon=given["eps"])
    made = to.node("reshape", [made], shape, sizes=shape)
    along = [1, -1, *[1] * (len(shape) - 2)]
    weight, bias = (each if each is None else each.reshape(along) for each in (given["weight"], given["bias"]))
    return (_affine(to, made, weight, bias, shape), None, None)


def _masked_fill(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    value = given["value"]
    filled = value if isinstance(value, torch.Tensor) else np.float32(value)
    return to.node("where", [given["mask"], filled, given["self"]], shapes[0])


def _add_product(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    product = to.node("multiply", [given["tensor1"], given["tensor2"]], shapes[0])
    if given["value"] != 1:
        product = to.node("multiply", [product, np.float32(given["value"])], shapes[0])
    return to.node("add", [given["self"], product], shapes[0])


def _softmax(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return to.node("softmax", [given["self"]], shapes[0], axis=given["dim"] % len(shapes[0]))


def _reduction(kind: str) -> Callable[..., Node]:
    def rule(to: Translation, given: Mapping[str, Any], shapes: Any) -> Node:
        x = given["self"]
        along = given.get("dim")
        along = [along] if isinstance(along, int) else along or range(len(x.shape))
        axes = sorted(axis % len(x.shape) for axis in along)
        return to.node(kind, [x], shapes[0], axes=axes, keep=bool(given.get("keepdim")))

    return rule


def _adaptive_average(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given["self"], shapes[0]
    sizes, made = x.shape[2:], shape[2:]
    if any(size % count for size, count in zip(sizes, made, strict=True)):
        raise no_definition("adaptive average pooling of uneven windows", to.name)
    window = [size // count for size, count in zip(sizes, made, strict=True)]
    return _average(to, x, shape, window, window, [(0, 0)] * len(window), own=True)


def _average_pool(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given["self"], shapes[0]
    rank = len(shape) - 2
    window, pads = _several(given["kernel_size"], rank), _several(given["padding"], rank)
    strides = _several(given["stride"], rank) if given["stride"] else window
    padding = _reaching(x.shape[2:], shape[2:], window, strides, pads, [1] * rank)
    if given.get("divisor_override") or (given["ceil_mode"] and given["count_include_pad"] and any(pads)):
        raise no_definition("average pooling with a divisor of its own", to.name)
    return _average(to, x, shape, window, strides, padding, own=not given["count_include_pad"] or given["ceil_mode"])


def _average(to: Translation, x: Node, shape: Any, window: Any, strides: Any, padding: Any, own: bool) -> Node:
    counts = window_counts(x.shape[2:], window, strides, padding, own)
    attributes = {"window": window, "strides": strides, "padding": padding, "counts": counts.tolist()}
    return to.node("average_pool", [x], shape, channels_last=False, **attributes)


def _max_pool(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, shape = given["self"], shapes[0]
    rank = len(shape) - 2
    window, dilation = _several(given["kernel_size"], rank), _several(given["dilation"], rank)
    strides = _several(given["stride"], rank) if given["stride"] else window
    padding = _reaching(x.shape[2:], shape[2:], window, strides, _several(given["padding"], rank), dilation)
    attributes = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    return to.node("max_pool", [x], shape, channels_last=False, **attributes)


def _max_pool_with_indices(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return (_max_pool(to, given, shapes), None)


def _several(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _reaching(sizes: Any, made: Any, window: Any, strides: Any, pads: Any, dilation: Any) -> list[tuple[int, int]]:
    """Padding before and after, more after where the last window of ``ceil_mode`` reaches beyond."""
    ends = [
        (count - 1) * stride + spread * (length - 1) + 1
        for count, stride, length, spread in zip(made, strides, window, dilation, strict=True)
    ]
    return [(pad, max(pad, end - size - pad)) for size, pad, end in zip(sizes, pads, ends, strict=True)]


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


def _transpose(to: Translation, x: Any, axes: Sequence[int]) -> Node:
    axes = [axis % len(x.shape) for axis in axes]
    return to.node("transpose", [x], [x.shape[axis] for axis in axes], axes=axes)


def _permute(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return _transpose(to, given["self"], given["dims"])


def _swap(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    axes = list(range(len(shapes[0])))
    one, two = (given["dim0"], given["dim1"]) if "dim0" in given else (-2, -1)
    axes[one], axes[two] = axes[two], axes[one]
    return _transpose(to, given["self"], axes)


def _shuffle_channels(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    (samples, channels, *rest), groups = shapes[0], given["groups"]
    return _regrouped(to, given["self"], (samples, groups, channels // groups, *rest), (0, 2, 1), shapes[0])


def _shuffle_pixels(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    x, by = given["self"], given["upscale_factor"]
    samples, channels, height, width = x.shape
    split = (samples, channels // by**2, by, by, height, width)
    return _regrouped(to, x, split, (0, 1, 4, 2, 5, 3), shapes[0])


def _regrouped(to: Translation, x: Node, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> Node:
    """Another shape with the axes in another order, and back."""
    axes = [*order, *range(len(order), len(split))]
    x = _transpose(to, to.node("reshape", [x], split, sizes=list(split)), axes)
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
    return _part(to, x, starts, stops, steps)


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
        raise no_definition(f"padding of mode {given['mode']}", to.name)
    pairs = list(zip(given["pad"][::2], given["pad"][1::2], strict=True))[::-1]
    padding = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    starts = [max(0, -before) for before, _ in padding]
    stops = [size - max(0, -after) for size, (_, after) in zip(x.shape, padding, strict=True)]
    if any(starts) or stops != list(x.shape):
        x = _part(to, x, starts, stops, [1] * len(starts))
        padding = [(max(0, before), max(0, after)) for before, after in padding]
    return to.node("pad", [x], shapes[0], padding=padding, value=float(given["value"] or 0))


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


_RULES: dict[str, Callable[[Translation, Mapping[str, Any], Any], Any]] = {
    "_adaptive_avg_pool2d": _adaptive_average,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_softmax": _softmax,
    "_unsafe_view": _reshape,
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
    "addcmul": _add_product,
    "addmm": _addmm,
    "all": _reduction("every"),
    "amax": _reduction("largest"),
    "avg_pool1d": _average_pool,
    "avg_pool2d": _average_pool,
    "batch_norm": lambda to, given, shapes: _batch_norm(to, given, shapes)[0],
    "bmm": _matmul,
    "cat": _concatenate,
    "channel_shuffle": _shuffle_channels,
    "constant_pad_nd": _pad,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "conv_transpose2d": _transposed_convolution,
    "conv_transpose3d": _transposed_convolution,
    "convolution": _convolution,
    "embedding": _embedding,
    "expand": _expand,
    "fake_quantize_per_tensor_affine": _quantize,
    "fake_quantize_per_tensor_affine_cachemask": _quantize_with_mask,
    "flip": _flip,
    "index": _index,
    "layer_norm": lambda to, given, shapes: _layer_norm(to, given, shapes)[0],
    "linear": _linear,
    "masked_fill": _masked_fill,
    "matmul": _matmul,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool_with_indices,
    "mean": _reduction("mean"),
    "mm": _matmul,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "pad": _pad,
    "permute": _permute,
    "pixel_shuffle": _shuffle_pixels,
    "reshape": _reshape,
    "roll": _roll,
    "select": _select,
    "slice": _slice,
    "softmax": _softmax,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "sum": _reduction("total"),
    "t": _swap,
    "transpose": _swap,
    "unbind": _unbind,
    "unsqueeze": _reshape,
    "upsample_nearest2d": _nearest,
    "view": _reshape,
}
