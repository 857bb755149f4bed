"""The operations of integer programs in numpy. Most work on integers (int64) and on floats (float32)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.sums import convolution, like, matmul, max_pool, sum_pool


def spread(x: np.ndarray, *, axes: Sequence[int], factors: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Insert zeros between the values along axes, and some after the last: the input of a transposed convolution.

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
    """Pad a tensor before and after along each axis."""
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
    """Values at indices along an axis: nearest neighbours, embeddings.

    Raises:
        QuantizerError: an index that the axis does not have.
    """
    if indices.size and not 0 <= indices.min() <= indices.max() < x.shape[axis]:
        found, rule = f"{indices.min()} to {indices.max()}", f"from 0 to {x.shape[axis] - 1}"
        raise invalid("Program.run", "indices", rule, found, "pass tokens that the embedding has")
    return np.take(x, indices.astype(np.int64), axis)


def total(x: np.ndarray, *, axes: Sequence[int], keep: bool) -> np.ndarray:
    """The sum over axes."""
    return like(x, x.sum(tuple(axes), np.float64 if x.dtype.kind == "f" else np.int64, keepdims=keep))


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
