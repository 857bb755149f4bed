"""The operations of integer programs in numpy. Most are the same for integers (int64) and for floats (float32)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.lattice import is_power_of_two

EXACT_BITS = 53
"""Sums of products are added as float64, whose integers are exact to this many bits; BLAS makes them fast."""


def along(values: Any, axis: int | None, rank: int) -> np.ndarray:
    """One value, or one per channel, in the shape in which it meets a tensor.

    Examples:
        >>> along([1, 2], -3, 4).shape
        (1, 2, 1, 1)
    """
    values = np.asarray(values)
    if not values.ndim:
        return values
    shape = [1] * rank
    shape[axis if axis is not None else 0] = -1
    return values.reshape(shape)


def divide_rounded(numerator: np.ndarray, denominator: Any, rule: RoundingRule) -> np.ndarray:
    """The integers nearest to numerator/denominator; ties as the rule says.

    Examples:
        >>> halves = np.array([-3, -1, 1, 3])
        >>> [divide_rounded(halves, 2, rule).tolist() for rule in RoundingRule]
        [[-2, 0, 0, 2], [-1, 0, 1, 2], [-2, -1, 1, 2]]
    """
    quotient, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    up = twice > denominator
    tie = twice == denominator
    if rule is RoundingRule.HALF_EVEN:
        up |= tie & (quotient % 2 == 1)
    elif rule is RoundingRule.HALF_UP:
        up |= tie
    else:
        up |= tie & (quotient >= 0)
    return quotient + up  # type: ignore[no-any-return]


def requantize(
    x: np.ndarray, shift: Any, axis: int | None, divisor: int, zero: int, low: int, high: int, rule: RoundingRule
) -> np.ndarray:
    """clip(round(x·2^-shift / divisor) + zero, low, high), with one shift or one per channel."""
    shift = along(shift, axis, x.ndim)
    numerator = x << np.maximum(-shift, 0)
    denominator = np.left_shift(divisor, np.maximum(shift, 0))
    return np.clip(divide_rounded(numerator, denominator, rule) + zero, low, high)


def to_integers(
    x: np.ndarray, step: float, zero: int, low: int, high: int, rule: RoundingRule, from_lowest: bool = False
) -> np.ndarray:
    """clip(round(x/step) + zero, low, high) of floats, as the quantizers of the frameworks compute it in float32.

    Args:
        x: The floats.
        step: Δ.
        zero: The level of zero.
        low: The lowest level.
        high: The highest.
        rule: How ties are rounded.
        from_lowest: Whether levels are counted from the lowest, as in TensorFlow: next to a tie the difference to it
            may round to one, which goes up.

    Examples:
        >>> x = np.nextafter(np.float32([0.5]), np.float32(0))
        >>> [to_integers(x, 1.0, 0, -128, 127, RoundingRule.HALF_UP, each).item() for each in (False, True)]
        [0, 1]
    """
    scaled = np.asarray(x, np.float32) * (np.float32(1) / np.float32(step))
    levels = round_floats(scaled, rule)
    if from_lowest:
        lowest, highest = (np.float32(end - zero) * np.float32(step) for end in (low, high))
        inside = np.clip(np.nan_to_num(np.asarray(x, np.float32), nan=0.0), lowest, highest) - lowest
        counted = np.floor(inside / np.float32(step) + np.float32(low - zero) + np.float32(0.5))
        levels = np.where(is_power_of_two(step) & (scaled - np.floor(scaled) == 0.5), levels, counted)
    return np.clip(levels + zero, low, high).astype(np.int64)


def round_floats(x: np.ndarray, rule: RoundingRule) -> np.ndarray:
    """The nearest whole numbers; NaN becomes 0 as in the frameworks' quantizers.

    Examples:
        >>> [round_floats(np.float32([-1.5, -0.5, 0.5]), rule).tolist() for rule in RoundingRule]
        [[-2.0, -0.0, 0.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 1.0]]
    """
    wide = np.nan_to_num(np.asarray(x, np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if rule is RoundingRule.HALF_EVEN:
        return np.rint(wide)  # type: ignore[no-any-return]
    if rule is RoundingRule.HALF_UP:
        return np.floor(wide + 0.5)  # type: ignore[no-any-return]
    return np.copysign(np.floor(np.abs(wide) + 0.5), wide)  # type: ignore[no-any-return]


def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    groups: int,
    channels_last: bool,
) -> np.ndarray:
    """Σ x·w + b over windows.

    Args:
        x: (samples, channels, *spatial), or channels last.
        weight: (channels of the result, channels/groups, *window).
        bias: (channels of the result,).
        strides: Of each spatial axis.
        padding: (before, after) of each spatial axis, zeros.
        dilation: Of each spatial axis.
        groups: Of channels.
        channels_last: Whether channels are the last axis of ``x`` and of the result.

    Examples:
        >>> ones = np.ones((1, 1, 3, 3), np.int64)
        >>> window = {"strides": [1, 1], "padding": [(1, 1), (1, 1)], "dilation": [1, 1]}
        >>> convolution(ones, ones, groups=1, channels_last=False, **window)[0, 0].tolist()
        [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    """
    x = np.moveaxis(x, -1, 1) if channels_last else x
    samples = len(x)
    made, per_group, *window = weight.shape
    wide = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *padding])
    spatial = output_sizes(x.shape[2:], window, strides, padding, dilation)
    grouped = weight.astype(np.float64).reshape(groups, made // groups, per_group, *window)
    total = np.zeros((samples, groups, made // groups, math.prod(spatial)))
    for at in itertools.product(*map(range, window)):
        seen = wide[_seen(at, spatial, strides, dilation)]
        seen = seen.reshape(samples, groups, per_group, -1)
        factor = grouped[(slice(None),) * 3 + at]
        total += factor * seen if per_group == 1 else factor @ seen
    result = total.reshape(samples, made, *spatial)
    if bias is not None:
        result += bias.reshape(-1, *[1] * len(spatial))
    return _like(x, np.moveaxis(result, 1, -1) if channels_last else result)


def output_sizes(
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
) -> list[int]:
    """How many windows fit along each spatial axis."""
    return [
        (size + sum(pads) - spread * (length - 1) - 1) // stride + 1
        for size, length, stride, pads, spread in zip(sizes, window, strides, padding, dilation, strict=True)
    ]


def _seen(
    at: Sequence[int], spatial: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[slice, ...]:
    """What a place of the window sees of samples, channels and spatial axes."""
    starts = [place * gap for place, gap in zip(at, dilation, strict=True)]
    steps = zip(starts, spatial, strides, strict=True)
    return (slice(None), slice(None), *(slice(start, start + (size - 1) * by + 1, by) for start, size, by in steps))


def matmul(x: np.ndarray, other: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Products of matrices, or of stacks of them: x @ other + bias."""
    result = x.astype(np.float64) @ other.astype(np.float64)
    return _like(x, result if bias is None else result + bias)


def _like(x: np.ndarray, sums: np.ndarray) -> np.ndarray:
    return sums.astype(x.dtype if x.dtype.kind == "f" else np.int64)


def max_pool(
    x: np.ndarray,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    channels_last: bool,
) -> np.ndarray:
    """The largest value of each window; what is padded is never the largest."""
    lowest = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return _pooled(x, np.maximum, lowest, window, strides, padding, dilation, channels_last)


def sum_pool(
    x: np.ndarray,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    channels_last: bool,
) -> np.ndarray:
    """The sum of each window."""
    return _pooled(x, np.add, 0, window, strides, padding, [1] * len(window), channels_last)


def _pooled(
    x: np.ndarray,
    join: Any,
    start: Any,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    channels_last: bool,
) -> np.ndarray:
    x = np.moveaxis(x, -1, 1) if channels_last else x
    spatial = output_sizes(x.shape[2:], window, strides, padding, dilation)
    wide = np.pad(x, [(0, 0), (0, 0), *padding], constant_values=start)
    result = np.full((*x.shape[:2], *spatial), start, x.dtype)
    for at in itertools.product(*map(range, window)):
        result = join(result, wide[_seen(at, spatial, strides, dilation)])
    return np.moveaxis(result, 1, -1) if channels_last else result


def spread(x: np.ndarray, *, axes: Sequence[int], factors: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Zeros between the values along axes, and some after the last: what a transposed convolution reads.

    Examples:
        >>> spread(np.array([[1, 2]]), axes=[1], factors=[2], after=[1]).tolist()
        [[1, 0, 2, 0]]
    """
    shape = list(x.shape)
    for axis, factor, more in zip(axes, factors, after, strict=True):
        shape[axis] = (x.shape[axis] - 1) * factor + 1 + more
    result = np.zeros(shape, x.dtype)
    steps = dict(zip(axes, factors, strict=True))
    ends = [(size - 1) * steps.get(axis, 1) + 1 for axis, size in enumerate(x.shape)]
    result[tuple(slice(0, end, steps.get(axis, 1)) for axis, end in enumerate(ends))] = x
    return result


def pad(x: np.ndarray, *, padding: Sequence[Sequence[int]], value: Any = 0) -> np.ndarray:
    """More values around a tensor, before and after along each axis."""
    return np.pad(x, padding, constant_values=value)


def part(x: np.ndarray, *, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """A part of a tensor along each axis; negative steps go backwards, to the stop -1 for the first."""
    ends = [stop if step > 0 or stop >= 0 else None for stop, step in zip(stops, steps, strict=True)]
    return x[tuple(map(slice, starts, ends, steps))]


def concatenate(*parts: np.ndarray, axis: int) -> np.ndarray:
    """Tensors one after the other along an axis."""
    return np.concatenate(parts, axis)


def reshape(x: np.ndarray, *, sizes: Sequence[int]) -> np.ndarray:
    """The same values in another shape."""
    return x.reshape(sizes)


def transpose(x: np.ndarray, *, axes: Sequence[int]) -> np.ndarray:
    """The same values with the axes in another order."""
    return x.transpose(axes)


def broadcast(x: np.ndarray, *, sizes: Sequence[int]) -> np.ndarray:
    """The values repeated along axes of size one."""
    return np.broadcast_to(x, sizes)


def take(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    """Values at indices along an axis: nearest neighbours, embeddings."""
    return np.take(x, indices.astype(np.int64), axis)


def total(x: np.ndarray, *, axes: Sequence[int], keep: bool) -> np.ndarray:
    """The sum over axes."""
    return _like(x, x.sum(tuple(axes), np.float64 if x.dtype.kind == "f" else np.int64, keepdims=keep))


def mean(x: np.ndarray, *, axes: Sequence[int], keep: bool) -> np.ndarray:
    """The mean over axes, of floats."""
    return x.mean(tuple(axes), keepdims=keep)  # type: ignore[no-any-return]


def average_pool(x: np.ndarray, *, counts: Any, channels_last: bool, **window: Any) -> np.ndarray:
    """The mean of each window, of floats."""
    counts = np.asarray(counts)
    return sum_pool(x, channels_last=channels_last, **window) / (counts[..., None] if channels_last else counts)  # type: ignore[no-any-return]


def largest(x: np.ndarray, *, axes: Sequence[int], keep: bool) -> np.ndarray:
    """The largest value over axes."""
    return x.max(tuple(axes), keepdims=keep)  # type: ignore[no-any-return]


def every(x: np.ndarray, *, axes: Sequence[int], keep: bool) -> np.ndarray:
    """Whether all values over axes are other than zero."""
    return np.all(x, tuple(axes), keepdims=keep)


def clip(x: np.ndarray, *, low: Any, high: Any) -> np.ndarray:
    """Values no smaller and no larger than given; None for no bound."""
    return np.clip(x, low, high).astype(x.dtype)


def leaky_relu(x: np.ndarray, *, slope: float) -> np.ndarray:
    """The values, those below zero times a slope."""
    return np.where(x < 0, x * np.float32(slope), x)


def softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    """exp(x) / Σ exp(x) along an axis."""
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)  # type: ignore[no-any-return]


def normalize(x: np.ndarray, *, axes: Sequence[int], epsilon: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) over axes."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(tuple(axes), keepdims=True)
    return (centred / np.sqrt((centred**2).mean(tuple(axes), keepdims=True) + epsilon)).astype(x.dtype)


MOVES: dict[str, Callable[..., np.ndarray]] = {
    "broadcast": broadcast,
    "concatenate": concatenate,
    "pad": pad,
    "part": part,
    "reshape": reshape,
    "spread": spread,
    "take": take,
    "transpose": transpose,
}
"""Operations that move values and change none."""
OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    **MOVES,
    "add": np.add,
    "clip": clip,
    "convolution": convolution,
    "largest": largest,
    "matmul": matmul,
    "max_pool": max_pool,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "subtract": np.subtract,
    "sum_pool": sum_pool,
    "total": total,
    "where": np.where,
}
"""Operations on integers, and on floats."""
FLOAT: dict[str, Callable[..., np.ndarray]] = {
    **OPERATIONS,
    "absolute": np.abs,
    "average_pool": average_pool,
    "cosine": np.cos,
    "divide": np.divide,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "equal": np.equal,
    "every": every,
    "exp": np.exp,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "leaky_relu": leaky_relu,
    "less": np.less,
    "less_equal": np.less_equal,
    "logarithm": np.log,
    "logical_and": np.logical_and,
    "logical_not": np.logical_not,
    "logical_or": np.logical_or,
    "mean": mean,
    "negate": np.negative,
    "normalize": normalize,
    "not_equal": np.not_equal,
    "power": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sine": np.sin,
    "softmax": softmax,
    "square": np.square,
    "square_root": np.sqrt,
    "tanh": np.tanh,
}
"""Operations on floats: those of float islands."""
