"""The integer form of operations that add up: products with weights, averages, sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.integer.build import FAR, Builder
from trainable_quantizers_core.integer.dataflow import Node
from trainable_quantizers_core.integer.lattice import Form, along, on_lattice, on_steps
from trainable_quantizers_core.integer.sums import EXACT_BITS, sum_pool
from trainable_quantizers_core.quantizer.accumulator import bits_of

WEIGHT_BITS = 17
"""Weights that need more bits, which the finest grid has, lie on none."""
_COMMON_BITS = 8


def convolution(to: Builder, node: Node, x: Any, weight: Any, bias: Any = None) -> Form | None:
    """Σ q_x·q_w + q_b, on a grid of each channel."""
    if not isinstance(x, Form) or not isinstance(weight, np.ndarray):
        return None
    axis = len(node.shape) - 1 if node.attributes["channels_last"] else 1
    return _sums(to, node, x, weight, 0, bias, axis)


def matmul(to: Builder, node: Node, x: Any, other: Any, bias: Any = None) -> Form | None:
    """Σ q_x·q_w + q_b, on a grid of each column; or the product of two activations."""
    if isinstance(x, Form) and isinstance(other, Form):
        x, other = to.scalar(x), to.scalar(other)
        ends = [x.shape[-1] * int(a) * int(b) for a in (x.low, x.high) for b in (other.low, other.high)]
        grid: dict[str, Any] = {"divisor": x.divisor * other.divisor, "exact": x.exact and other.exact}
        grid["scale"] = x.scale * other.scale
        exponent = x.exponent + other.exponent
        return to.form("matmul", (x.index, other.index), node.shape, exponent, min(ends), max(ends), **grid)
    if not isinstance(x, Form) or not isinstance(other, np.ndarray) or other.ndim != 2:
        return None
    return _sums(to, node, x, other, 1, bias, len(node.shape) - 1)


def _sums(to: Builder, node: Node, x: Form, weight: Any, channels: int, bias: Any, axis: int) -> Form | None:
    """The sums of a weight whose channels are counted by the axis ``channels``; ``axis`` counts those of the result."""
    x = to.scalar(x)
    scale: Any = x.scale
    floats = weight
    weight, exponent = on_lattice(floats, axis=channels)
    if not x.on_powers or bits_of(weight.min(), weight.max()) > WEIGHT_BITS:
        found = on_steps(floats, axis=channels)
        if found is None:
            return None
        weight, exponent, scale = found[0], np.zeros_like(exponent), x.scale * found[1]
    flat = np.moveaxis(weight, channels, 0).reshape(len(exponent), -1)
    if bias is not None and np.all(scale == 1):
        finer = _steps_finer(flat, exponent + x.exponent, np.asarray(bias) * x.divisor)
        flat, exponent = flat << finer[:, None], exponent - finer
        weight = weight << along(finer, channels, weight.ndim)
    exponent = exponent + x.exponent
    least, most = min(0, int(x.low)), max(0, int(x.high))  # of what is padded, too
    positive, negative = (np.clip(flat, *sign).sum(1).astype(np.float64) for sign in ((0, None), (None, 0)))
    low, high = positive * least + negative * most, positive * most + negative * least
    inputs: tuple[Any, ...] = (x.index, weight)
    exact = x.exact
    if bias is not None:
        scaled = np.ldexp(np.asarray(bias, np.float64) * x.divisor / scale, -exponent)
        rounded = np.rint(scaled)
        if np.abs(rounded).max(initial=0) >= 2.0**EXACT_BITS:
            return None
        if np.all(scale == 1) and (off := int((rounded != scaled).sum())):
            exact = False
            to.notes.append(f"{to.name}: {off} of {scaled.size} biases were off the accumulator grid and are rounded.")
        low, high, inputs = low + rounded, high + rounded, (*inputs, rounded.astype(np.int64))
    grid: dict[str, Any] = {"axis": axis, "divisor": x.divisor, "exact": exact, "scale": scale}
    return to.form(node.kind, inputs, node.shape, exponent, low, high, node.attributes, **grid)


def _steps_finer(flat: np.ndarray, exponent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Bits by which the grid of each channel is finer than its weights show: all of them even, say, or zero.

    A bias on the accumulator grid tells, as long as the weights need no more bits than those of other channels.
    """
    fine = on_lattice(bias, axis=0)[1]
    bits = np.array([bits_of(row.min(), row.max()) for row in flat])
    room = np.where(flat.any(1), max(bits.max(), _COMMON_BITS) - bits, FAR)
    return np.where((bias != 0) & (fine < exponent) & (exponent - fine <= room), exponent - fine, 0)


def average_pool(to: Builder, node: Node, x: Any) -> Form | None:
    """Sums of windows, which the next quantizer divides; over one divisor where windows at borders count less."""
    if not isinstance(x, Form):
        return None
    attributes = dict(node.attributes)
    counts = np.asarray(attributes.pop("counts"), np.int64)
    size = math.prod(attributes["window"])
    ends = {"low": np.minimum(x.low, 0) * size, "high": np.maximum(x.high, 0) * size}
    sums = to.like(x, "sum_pool", (x.index,), node.shape, attributes=attributes, **ends)
    common = math.lcm(*np.unique(counts).tolist())
    factors = common // counts
    if sums is not None and (factors > 1).any():
        shaped = factors[None, ..., None] if attributes["channels_last"] else factors[None, None]
        ends = {"low": sums.low * factors.max(), "high": sums.high * factors.max()}
        sums = to.like(sums, "multiply", (sums.index, shaped), node.shape, **ends)
    return sums and to.over(sums, common)


def total(to: Builder, node: Node, x: Any) -> Form | None:
    """The sum of integers over axes."""
    if not isinstance(x, Form):
        return None
    axes, keep = list(node.attributes["axes"]), node.attributes["keep"]
    x = to.scalar(x) if x.axis in axes else x
    axis = x.axis if x.axis is None or keep else x.axis - sum(other < x.axis for other in axes)
    count = math.prod(x.shape[other] for other in axes)
    ends = {"low": x.low * count, "high": x.high * count}
    return to.like(x, "total", (x.index,), node.shape, attributes={"axes": axes, "keep": keep}, axis=axis, **ends)


def mean(to: Builder, node: Node, x: Any) -> Form | None:
    """The sum over axes, which the next quantizer divides."""
    found = total(to, node, x)
    return found and to.over(found, math.prod(x.shape[axis] for axis in node.attributes["axes"]))


def window_counts(
    shape: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Sequence[Sequence[int]], own: bool
) -> np.ndarray:
    """How many values each window of an average counts: all of it, or those that are no padding (``own``).

    Examples:
        >>> window_counts([3], [2], [2], [(0, 1)], own=True)
        array([2, 1])
    """
    ones = np.ones((1, 1, *shape), np.int64)
    if not own:
        ones, padding = np.pad(ones, [(0, 0), (0, 0), *padding], constant_values=1), [(0, 0)] * len(window)
    pooled = sum_pool(ones, window=window, strides=strides, padding=padding, channels_last=False)
    return pooled[0, 0]  # type: ignore[no-any-return]
