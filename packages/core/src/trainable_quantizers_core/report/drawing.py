"""Inline SVG of histogram, grid and channels: shapes only, without text, so that they stretch to any width."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainable_quantizers_core.report.data import TensorReport

WIDTH, HEIGHT, BAND = 1000, 200, 10  # fine enough to round all coordinates
MOST_GROUPS = 96


def histogram(tensor: TensorReport) -> str:
    """Bars of square-root height, clipped values in front; the levels as lines, their range as a band below.

    Levels less than 6 units apart are shown only by the band.
    """
    low, high = tensor.typical_range
    left, right = domain(tensor)
    scale = WIDTH / (right - left)
    tallest = np.sqrt(tensor.counts.max(initial=1))
    edges = (tensor.edges - left) * scale
    bars, clipped = (
        _steps(edges, HEIGHT - HEIGHT * np.sqrt(counts) / tallest, HEIGHT)
        for counts in (tensor.counts, tensor.clipped_counts)
    )
    levels = (low + tensor.places * (high - low) - left) * scale
    apart = (levels[-1] - levels[0]) / (len(levels) - 1)
    lines = "".join(f"M{x:.0f} 0v{HEIGHT}" for x in levels) if apart >= 6 else ""
    band = f"M{levels[0]:.0f} {HEIGHT}H{levels[-1]:.0f}v{BAND}H{levels[0]:.0f}z"
    shapes = (("bars", bars), ("clipped", clipped), ("levels", lines), ("band", band))
    return _svg("Histogram of the values with the levels of the grid", HEIGHT + BAND, shapes)


def domain(tensor: TensorReport) -> tuple[float, float]:
    """Both ends of the drawing: all values and the whole grid."""
    low, high = tensor.typical_range
    return min([low, *tensor.edges[:1]]), max([high, *tensor.edges[-1:]])


def group_size(channels: int) -> int:
    """How many channels share a step of the drawing: one, up to 96 channels."""
    return -(-channels // MOST_GROUPS)


def channels(tensor: TensorReport) -> str:
    """The range of each channel, over the zero line; of a group of channels the widest, and inside it the narrowest."""
    low, high = tensor.range
    top, bottom = max(0.0, float(high.max())), min(0.0, float(low.min()))
    starts = np.arange(0, low.size, group_size(low.size))
    edges = np.append(starts, low.size) * WIDTH / low.size

    def between(highs: np.ndarray, lows: np.ndarray) -> str:
        y_high, y_low = (HEIGHT * (top - end) / (top - bottom) for end in (highs, lows))
        return _steps(edges, y_high, y_low)

    widest = between(np.maximum.reduceat(high, starts), np.minimum.reduceat(low, starts))
    narrowest = between(np.minimum.reduceat(high, starts), np.maximum.reduceat(low, starts))
    zero = f"M0 {HEIGHT * top / (top - bottom):.0f}H{WIDTH}"
    return _svg("Range of each channel", HEIGHT, (("widest", widest), ("bars", narrowest), ("levels", zero)))


def _steps(edges: np.ndarray, tops: np.ndarray, bottoms: np.ndarray | float) -> str:
    """A path of bars from ``tops`` to ``bottoms``; bars without height leave no trace."""
    bottoms = np.broadcast_to(bottoms, np.shape(tops))
    bars = zip(edges[:-1], edges[1:], tops, bottoms, strict=True)
    return "".join(
        f"M{left:.0f} {bottom:.0f}V{top:.0f}H{right:.0f}V{bottom:.0f}z"
        for left, right, top, bottom in bars
        if top < bottom
    )


def _svg(title: str, height: int, shapes: Iterable[tuple[str, str]]) -> str:
    paths = "".join(f'<path class="{name}" d="{path}"/>' for name, path in shapes if path)
    box = f'viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none"'
    return f'<svg role="img" {box}><title>{title}</title>{paths}</svg>'
