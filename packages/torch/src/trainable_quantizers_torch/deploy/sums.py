"""PyTorch operators that multiply, add, pool, normalize and quantize, in the terms of ``integer/dataflow``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition
from trainable_quantizers_core.integer.sum_rules import window_counts

from trainable_quantizers_torch.deploy.moves import cut, transpose


def _quantize(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    attributes = {
        "step": float(given["scale"]),
        "zero": int(given["zero_point"]),
        "low": int(given["quant_min"]),
        "high": int(given["quant_max"]),
        "rule": to.ties.of(to.name, RoundingRule.HALF_EVEN).value,
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
            x, padding = cut(to, x, padding)
    inputs = [each for each in (x, weight, bias) if each is not None]
    attributes = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return to.node("convolution", inputs, shapes[0], channels_last=False, **attributes)


def _transposed_convolution(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    return _convolution(to, given, shapes, transposed=True)


def _linear(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    weight = given["weight"]
    weight = weight.T if isinstance(weight, torch.Tensor) else transpose(to, weight, [1, 0])
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


def _linear_resizing(to: Translation, given: Mapping[str, Any], shapes: Any) -> Any:
    """Products with the matrix of each axis, which resizing the unit vectors gives."""
    x, shape = given.get("self", given.get("input")), shapes[0]
    for axis in range(2, len(shape)):
        units = torch.eye(x.shape[axis])[None]
        options = {"mode": "linear", "align_corners": given["align_corners"]}
        matrix = torch.nn.functional.interpolate(units, size=(shape[axis],), **options)[0]
        axes = [*(at for at in range(len(shape)) if at != axis), axis]
        last = transpose(to, x, axes)
        made = to.node("matmul", [last, matrix], (*last.shape[:-1], shape[axis]))
        x = transpose(to, made, [axes.index(at) for at in range(len(shape))])
    return x


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


SUMS: dict[str, Callable[..., Any]] = {
    "_adaptive_avg_pool2d": _adaptive_average,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_softmax": _softmax,
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
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "conv_transpose2d": _transposed_convolution,
    "conv_transpose3d": _transposed_convolution,
    "convolution": _convolution,
    "fake_quantize_per_tensor_affine": _quantize,
    "fake_quantize_per_tensor_affine_cachemask": _quantize_with_mask,
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
    "softmax": _softmax,
    "sum": _reduction("total"),
    "upsample_bilinear2d": _linear_resizing,
    "upsample_linear1d": _linear_resizing,
}
