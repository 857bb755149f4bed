"""Tells weights from inputs among the arguments of functions, and counts multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainable_quantizers_torch.graph.kinds import name_of

Path = tuple[int | str, ...]
"""Where an argument is: its position or keyword, and within a list its index."""


@dataclass
class Operands:
    """The roles of the arguments of a call.

    Args:
        inputs: Where activations stand.
        weights: Where weights can stand, and the axes of their channels.
        macs: Multiply-accumulates.
        depthwise: Whether each channel is convolved alone.
    """

    inputs: tuple[Path, ...]
    weights: dict[Path, int | None] = field(default_factory=dict)
    macs: int = 0
    depthwise: bool = False


def operands(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands:
    """The roles of the arguments of a convolution, linear layer, embedding or product.

    Examples:
        >>> import torch
        >>> operands(torch.nn.functional.linear, (torch.ones(5, 4), torch.ones(3, 4)), {}).macs
        60
    """
    word = name_of(function)
    if word.startswith("conv"):
        return _convolution(word, args, kwargs)
    if word == "linear":
        (x, w), places = _given(args, kwargs, ("input", "weight"))
        return Operands(places[:1], {places[1]: 0}, x.numel() // max(x.shape[-1], 1) * w.numel())
    if word == "bilinear":
        (x, _, w), places = _given(args, kwargs, ("input1", "input2", "weight"))
        return Operands(places[:2], {places[2]: 0}, x.numel() // max(x.shape[-1], 1) * w.numel())
    if word.startswith("embedding"):
        _, places = _given(args, kwargs, ("input", "weight"))
        return Operands(places[:1], {places[1]: 1})
    if word == "einsum":
        return _einsum(args)
    return _product(word, args, kwargs)


def _given(args: Any, kwargs: Any, names: tuple[str, ...]) -> tuple[list[Any], tuple[Path, ...]]:
    """Values and places of arguments, by position or by name."""
    values, places = [], []
    for index, name in enumerate(names):
        positional = index < len(args)
        values.append(args[index] if positional else kwargs[name])
        places.append(((index if positional else name),))
    return values, tuple(places)


def _convolution(word: str, args: Any, kwargs: Any) -> Operands:
    (x, w), places = _given(args, kwargs, ("input", "weight"))
    dimensions = w.ndim - 2
    if "transpose" in word:
        return Operands(places[:1], {places[1]: 1}, x.numel() * math.prod(w.shape[1:]))
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    macs = _positions(x, w, args, kwargs, dimensions) * w.numel()
    return Operands(places[:1], {places[1]: 0}, macs, depthwise=1 < groups == x.shape[-1 - dimensions])


def _positions(x: Any, w: Any, args: Any, kwargs: Any, dimensions: int) -> int:
    """Where a kernel is applied, over the whole batch."""

    def option(index: int, name: str, default: int) -> list[int]:
        value = args[index] if len(args) > index else kwargs.get(name, default)
        if isinstance(value, str):
            return [-1] * dimensions
        values = [value] if isinstance(value, int) else list(value)
        return values * dimensions if len(values) == 1 else values

    stride, padding, dilation = option(3, "stride", 1), option(4, "padding", 0), option(5, "dilation", 1)
    text = args[4] if len(args) > 4 else kwargs.get("padding", 0)
    batch = x.shape[0] if x.ndim == dimensions + 2 else 1
    sizes = []
    for axis in range(dimensions):
        size, kernel = x.shape[axis - dimensions], w.shape[axis - dimensions]
        if text == "same":
            sizes.append(size)
            continue
        padded = size + (0 if text == "valid" else 2 * padding[axis])
        sizes.append((padded - dilation[axis] * (kernel - 1) - 1) // stride[axis] + 1)
    return batch * math.prod(sizes)


_LEADING = {"addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1}


def _product(word: str, args: Any, kwargs: Any) -> Operands:
    first = _LEADING.get(word, 0)
    a = args[first] if len(args) > first else kwargs.get("mat1", kwargs.get("batch1", kwargs.get("input")))
    name = next((key for key in ("mat2", "batch2", "other", "tensor2", "vec") if key in kwargs), "other")
    b, place = (args[first + 1], (first + 1,)) if len(args) > first + 1 else (kwargs.get(name), (name,))
    if a is None or b is None or word == "tensordot":
        return Operands(((0,), (1,)), {(0,): None, (1,): None})
    places: tuple[Path, ...] = ((first,), place)
    axes: dict[Path, int | None] = {
        (first,): a.ndim - 2 if a.ndim > 1 else None,
        place: b.ndim - 1 if b.ndim > 1 else None,
    }
    rows = a.numel() // max(a.shape[-1], 1)
    columns = b.shape[-1] if b.ndim > 1 else 1
    batch = max(1, b.numel() // max(1, math.prod(b.shape[-2:])) // max(1, a.numel() // max(1, math.prod(a.shape[-2:]))))
    return Operands(places, axes, rows * a.shape[-1] * columns * batch)


def _einsum(args: Any) -> Operands:
    equation, *tensors = args
    nested = len(tensors) == 1 and isinstance(tensors[0], (list, tuple))
    tensors = list(tensors[0]) if nested else tensors
    places: tuple[Path, ...] = tuple((1, index) if nested else (1 + index,) for index in range(len(tensors)))
    if not isinstance(equation, str) or "..." in equation:
        work = max((tensor.numel() for tensor in tensors if hasattr(tensor, "numel")), default=0)
        return Operands(places, dict.fromkeys(places), work)
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = [pair for term, each in zip(terms, tensors, strict=True) for pair in zip(term, each.shape, strict=True)]
    sizes = dict(letters)
    axes: dict[Path, int | None] = {}
    for place, term in zip(places, terms, strict=True):
        others = "".join(other for other in terms if other is not term)
        kept = [index for index, letter in enumerate(term) if letter in right and letter not in others]
        axes[place] = kept[-1] if kept else None
    return Operands(places, axes, math.prod(sizes.values()))
