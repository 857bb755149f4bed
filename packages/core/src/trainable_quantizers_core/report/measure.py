"""Measures the effect of quantization on the values of a tensor."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.report.data import TensorReport

BINS = 64


def measure(tensor: TensorReport, x: np.ndarray, y: np.ndarray) -> TensorReport:
    """Complete ``tensor`` by comparing its float values ``x`` with the quantized values ``y``.

    SQNR in dB     10·log10(Σ x² / Σ (x-y)²); infinite where x = y, minus infinity where only x is all zero
    clipped        share of the values outside the closed effective range, of their channel if there are channels
    levels used    share of the 2^b levels that occur in y, in any channel
    range used     (max x - min x)/(high - low) with x clipped to the effective range; the mean of channels

    NaN and infinite values are counted by themselves and left out of SQNR and histogram. An empty tensor
    loses nothing, clips nothing and uses no level.

    Args:
        tensor: How it is quantized.
        x: Values before quantization; of several batches, put together.
        y: Values after, of the same shape.

    Raises:
        QuantizerError: shapes that differ, or an axis that does not fit.

    Examples:
        >>> from mct_quantizers import QuantizationMethod
        >>> conv = TensorReport("conv", "weight", "weights", QuantizationMethod.SYMMETRIC, 2, True, {"threshold": 1.0})
        >>> x, y = np.float32([-1.5, -0.2, 0.2, 0.6]), np.float32([-1.0, 0.0, 0.0, 0.5])
        >>> measured = measure(conv, x, y)
        >>> measured.clipped, measured.levels_used, round(measured.sqnr, 2)
        (0.5, 0.75, 8.98)
    """
    with np.errstate(over="ignore"):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    if x.shape != y.shape:
        where = f" for {tensor.layer!r}"
        raise invalid("measure", "y", f"of the shape {x.shape} of x", y.shape, "quantize the same values", where)
    low, high = _aligned_range(tensor, x.shape)
    finite = np.isfinite(x)
    clipped = (x < low) | (x > high)
    with np.errstate(over="ignore"):
        levels = np.rint((y - low) / ((high - low) / tensor.grid.num_steps))
    occurring = np.unique(levels[(levels >= 0) & (levels <= tensor.grid.num_steps)])
    edges = _edges(x[finite])
    return replace(
        tensor,
        elements=x.size,
        not_finite=int(x.size - finite.sum()),
        counts=np.histogram(x[finite], edges)[0],
        clipped_counts=np.histogram(x[finite & clipped], edges)[0],
        edges=edges,
        clipped=float(clipped.sum() / max(x.size, 1)),
        levels_used=occurring.size / 2**tensor.num_bits,
        range_used=_range_used(np.where(finite, x, np.nan), low, high, tensor.channel_axis),
        sqnr=_sqnr(x, y, finite & np.isfinite(y)),
    )


def _aligned_range(tensor: TensorReport, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both ends, shaped so that they broadcast against the values."""
    low, high = tensor.range
    axis = tensor.channel_axis
    if axis is None:
        return low, high
    if not -len(shape) <= axis < len(shape) or low.size != shape[axis]:
        where = f" for {tensor.layer!r} of {low.size} channels on axis {axis}"
        raise invalid("measure", "x", "of a shape with these channels", shape, "check channel_axis", where)
    aligned = [1] * len(shape)
    aligned[axis] = -1
    return low.reshape(aligned), high.reshape(aligned)


def _range_used(x: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int | None) -> float:
    """NaN is left out of ``x``."""
    clipped = np.clip(x, low, high)
    rows = clipped.reshape(1, -1) if axis is None else np.moveaxis(clipped, axis, 0).reshape(clipped.shape[axis], -1)
    some = ~np.isnan(rows).all(axis=1)
    if not some.any():
        return 0.0
    span = np.nanmax(rows[some], axis=1) - np.nanmin(rows[some], axis=1)
    return float(np.mean(span / np.broadcast_to(np.ravel(high - low), len(rows))[some]))


def _edges(values: np.ndarray) -> np.ndarray:
    """Bins of equal width from the smallest value to the largest; in float64, where float32 values stay apart."""
    if not values.size:
        return np.linspace(0.0, 1.0, BINS + 1)
    low, high = float(values.min()), float(values.max())
    margin = 0.0 if low < high else abs(low) / 2 or 0.5
    return np.linspace(low - margin, high + margin, BINS + 1)


def _sqnr(x: np.ndarray, y: np.ndarray, counted: np.ndarray) -> float:
    signal = x[counted].astype(np.float64)
    noise = np.square(signal - y[counted]).sum()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(signal).sum() / noise)) if noise else inf
