"""Convolutions, matrix products and pooling in numpy, of integers (int64) and of floats (float32)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

EXACT_BITS = 53
"""Sums of products are added as float64, whose integers are exact to this many bits; BLAS makes them fast."""


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
    return like(x, np.moveaxis(result, 1, -1) if channels_last else result)


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
    """The slices of samples, channels and spatial axes that a place of the window covers."""
    starts = [place * gap for place, gap in zip(at, dilation, strict=True)]
    steps = zip(starts, spatial, strides, strict=True)
    return (slice(None), slice(None), *(slice(start, start + (size - 1) * by + 1, by) for start, size, by in steps))


def matmul(x: np.ndarray, other: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Products of matrices, or of stacks of them: x @ other + bias."""
    result = x.astype(np.float64) @ other.astype(np.float64)
    return like(x, result if bias is None else result + bias)


def like(x: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Sums in float64 as floats where the operand has them, else as integers."""
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
