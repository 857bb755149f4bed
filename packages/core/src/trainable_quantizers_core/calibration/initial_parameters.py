"""Initial quantization parameters: of activations from their statistics, of weights from their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.calibration.range_search import ChannelData, Points, Ranges, search
from trainable_quantizers_core.calibration.table_search import even_table, fit_table
from trainable_quantizers_core.calibration.tensor_statistics import TensorStatistics, as_float32, float_array
from trainable_quantizers_core.constants import (
    LUT_VALUES,
    MIN_THRESHOLD,
    POWERS,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    TABLED,
    THRESHOLD,
)
from trainable_quantizers_core.enums import CalibrationMethod, Granularity
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.accumulator import MAX_ACCUMULATOR_BITS, AccumulatorGrid, largest_sum
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.table import table_grid
from trainable_quantizers_core.recipe.schemes import ActivationsScheme, WeightsScheme

_BLOCK = 2**18  # weights that are processed together, unless they share one channel


@dataclass(frozen=True)
class Calibrated:
    """Calibrated initial parameters for ``config`` of the scheme, and findings about the data in words.

    Args:
        params: ``{THRESHOLD: t}``, with ``SIGNED`` for activations and ``LUT_VALUES`` of tables, or
            ``{RANGE_MIN: a, RANGE_MAX: b}``; floats, or per channel float32 arrays of shape (channels,).
        findings: Notes for the user: dead channels, constant tensors, NaN values.

    Examples:
        >>> found = weights_parameters([[0.5, -1.0]], WeightsScheme(granularity="per_tensor", calibration="min_max"))
        >>> found
        Calibrated(params={'threshold': 1.0}, findings=())
    """

    params: dict[str, Any]
    findings: tuple[str, ...] = ()


def threshold_within(weight: np.ndarray, quantizer: RangeQuantizer, accumulator: AccumulatorGrid) -> Any:
    """Power-of-two thresholds of a weight, doubled until its sums fit into three quarters of the accumulator.

    Fewer levels of larger steps keep the size of a weight, where smaller levels would not; the last quarter is for the
    bias.

    Args:
        weight: Its values.
        quantizer: Has the calibrated threshold, and no variables yet.
        accumulator: Its bits, the quantizers of its inputs, the axis of the channels.

    Returns:
        As the configuration has it: a number, or one for each channel.
    """
    config: Any = quantizer.quantization_config
    given = config.weights_quantization_params[THRESHOLD]
    axis, grid = accumulator.axis(quantizer), quantizer.specification.grid
    rows = np.reshape(weight, (1, -1)) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    lowest, highest = accumulator.levels
    room = 0.75 * largest_sum(accumulator.bits or MAX_ACCUMULATOR_BITS) / max(-lowest, highest)
    found = np.broadcast_to(np.exp2(np.ceil(np.log2(np.asarray(given, np.float64)))), len(rows)).copy()
    for _ in range(MAX_ACCUMULATOR_BITS):  # at most so many bits are missing
        levels = np.rint(rows / (found / grid.steps_per_threshold)[:, None]).clip(grid.lowest, grid.highest)
        above, below = np.maximum(levels, 0).sum(axis=1), np.maximum(-levels, 0).sum(axis=1)
        exceeds = (above + below if lowest < 0 else np.maximum(above, below)) > room
        if not exceeds.any():
            break
        found[exceeds if np.ndim(given) else slice(None)] *= 2
    return found.astype(np.float32) if np.ndim(given) else float(found.max())


def activation_parameters(statistics: TensorStatistics, scheme: ActivationsScheme) -> Calibrated:
    """Initial parameters of an activation; unsigned if no negative value was seen.

    Args:
        statistics: Of its values.
        scheme: How it is quantized and calibrated.

    Raises:
        QuantizerError: statistics without a finite value.

    Examples:
        >>> statistics = TensorStatistics()
        >>> statistics.update(np.float32([0.0, 0.7, 2.9]))
        >>> activation_parameters(statistics, ActivationsScheme(calibration="min_max")).params
        {'threshold': 4.0, 'is_signed': False}
    """
    if not statistics.count:
        advice = "feed calibration data through the model" if not statistics.non_finite else "look for what made it NaN"
        raise invalid("activation_parameters", "statistics", "of at least one finite value", statistics, advice)
    signed = statistics.minimum < 0
    ranges = _ranges(scheme, signed)
    points, counts = statistics.points()
    data = ChannelData(
        points[None],
        counts,
        np.array([statistics.minimum]),
        np.array([statistics.maximum]),
        np.array([statistics.mean_magnitude]),
        lambda fraction, magnitudes: np.array([statistics.quantile(fraction, magnitudes)]),
    )
    findings = []
    if statistics.non_finite:
        total = statistics.count + statistics.non_finite
        findings.append(f"{statistics.non_finite} of {total} values are NaN or infinite; they were ignored")
    params = _calibrate(data, scheme, ranges)
    if not statistics.max_magnitude:
        params = ranges.around(np.zeros(1), np.ones(1))
        findings.append(f"all {statistics.count} values are zero; the range up to 1 is used")
    table: dict[str, Any] = {}
    if scheme.method in TABLED:
        seen = Points(np.append(points, np.float32(0))[None], np.append(counts, statistics.zeros))
        params, table = _with_table(params, seen, scheme, ranges)
    findings += _extremes(data.low, data.high, statistics.count)
    sign = {} if ranges.uniform else {SIGNED: signed}
    return Calibrated({**_by_name(params[:, 0].tolist()), **table, **sign}, tuple(findings))


def weights_parameters(array: Any, scheme: WeightsScheme, channel_axis: int | None = None) -> Calibrated:
    """Initial parameters of a weight, from its values.

    A channel of zeros takes the median of the other channels' parameters, so that its range fits if its values
    become nonzero. NaN and infinity count as zero.

    Args:
        array: The weight: anything that numpy converts to an array of floats.
        scheme: How it is quantized and calibrated.
        channel_axis: Channel axis of the weight; needed if channels have parameters of their own.

    Raises:
        QuantizerError: no elements, or an axis that the weight does not have.

    Examples:
        >>> weight = np.float32([[0.5, -1.0], [0.1, 0.2], [0.0, 0.0]])
        >>> found = weights_parameters(weight, WeightsScheme(calibration="min_max"), channel_axis=0)
        >>> found.params["threshold"].tolist(), found.findings
        ([1.0, 0.25, 1.0], ('1 of 3 channels hold only zeros (2); they take the median range of the others',))
    """
    weight = float_array("weights_parameters", array)
    where = f" for a weight of shape {weight.shape}"
    if not weight.size:
        raise invalid("weights_parameters", "array", "of at least one element", weight, "leave it in float", where)
    per_channel = scheme.granularity is Granularity.PER_CHANNEL
    if per_channel and (channel_axis is None or not -weight.ndim <= channel_axis < weight.ndim):
        advice = "name the channel axis, or quantize per tensor"
        rule = f"in {-weight.ndim}..{weight.ndim - 1}"
        raise invalid("weights_parameters", "channel_axis", rule, channel_axis, advice, where)
    rows = np.moveaxis(weight, channel_axis or 0, 0) if per_channel else weight[None]
    ranges = _ranges(scheme, True)
    height = max(1, _BLOCK // (weight.size // len(rows)))
    blocks = [_of_rows(rows[start : start + height], scheme, ranges) for start in range(0, len(rows), height)]
    params, low, high, non_finite = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    findings = []
    if non_finite.any():
        findings.append(f"{non_finite.sum()} of {weight.size} values are NaN or infinite; they count as zero")
    dead = (low == 0) & (high == 0)
    if dead.all():
        params = ranges.around(-np.ones(len(dead)), np.ones(len(dead)))
        findings.append(f"all {weight.size} values are zero; the range up to 1 is used")
    elif dead.any():
        params[:, dead] = ranges.effective(np.median(params[:, ~dead], axis=1, keepdims=True))
        shown = ", ".join(map(str, dead.nonzero()[0][:8])) + (", ..." if dead.sum() > 8 else "")
        text = f"{dead.sum()} of {len(dead)} channels hold only zeros ({shown})"
        findings.append(f"{text}; they take the median range of the others")
    table: dict[str, Any] = {}
    if scheme.method in TABLED:
        params, table = _with_table(params, Points(_clean(rows), None), scheme, ranges)
    findings += _extremes(low, high, weight.size)
    values: list[Any] = list(params) if per_channel else params[:, 0].tolist()
    return Calibrated({**_by_name(values), **table}, tuple(findings))


def _ranges(scheme: ActivationsScheme | WeightsScheme, signed: bool) -> Ranges:
    if scheme.method in TABLED:
        return Ranges(scheme.method, table_grid(signed))
    uniform = scheme.method is QuantizationMethod.UNIFORM
    return Ranges(scheme.method, Grid(scheme.num_bits, signed and not uniform))


def _of_rows(rows: np.ndarray, scheme: WeightsScheme, ranges: Ranges) -> tuple[np.ndarray, ...]:
    """Parameters, smallest and largest value, and the number of values that are NaN or infinite, per channel."""
    finite, values = np.isfinite(as_float32(rows)).reshape(len(rows), -1), _clean(rows)

    def quantile(fraction: float, magnitudes: bool) -> np.ndarray:
        return np.quantile(np.abs(values) if magnitudes else values, fraction, axis=1)

    mean_magnitude = np.abs(values).mean(axis=1, dtype=np.float64)
    data = ChannelData(values, None, values.min(axis=1), values.max(axis=1), mean_magnitude, quantile)
    return _calibrate(data, scheme, ranges), data.low, data.high, (~finite).sum(axis=1)


def _clean(rows: np.ndarray) -> np.ndarray:
    """Float32 values of shape (channels, any), with zero for NaN and infinity."""
    values = as_float32(rows).reshape(len(rows), -1)
    return np.where(np.isfinite(values), values, np.float32(0))


def _with_table(
    params: np.ndarray, seen: Points, scheme: ActivationsScheme | WeightsScheme, ranges: Ranges
) -> tuple[np.ndarray, dict[str, Any]]:
    """Thresholds that suit a table, and the table by the name of the configuration.

    Powers of two start in the middle between two steps of the exponent: a table that was fitted to one does not suit
    its neighbour.
    """
    if seen.points.any():
        searched = scheme.calibration is CalibrationMethod.MSE
        params, levels = fit_table(params, seen, ranges, scheme.num_bits, searched)
    else:
        levels = even_table(scheme.num_bits, ranges.grid)
    if scheme.method in POWERS:
        params = params * np.float32(sqrt(0.5))
    return params, {LUT_VALUES: levels.astype(int).tolist()}


def _calibrate(data: ChannelData, scheme: ActivationsScheme | WeightsScheme, ranges: Ranges) -> np.ndarray:
    low, high, calibration = data.low, data.high, scheme.calibration
    if calibration is CalibrationMethod.PERCENTILE:
        fraction = scheme.percentile / 100
        if ranges.uniform:
            low, high = data.quantile(1 - fraction, False), data.quantile(fraction, False)
        else:
            high = data.quantile(fraction, True)
            low = -high
        empty = (low >= 0) & (high <= 0)  # nearly all values are zero: the rest must not be clipped to it
        low, high = np.where(empty, data.low, low), np.where(empty, data.high, high)
    elif calibration is CalibrationMethod.LSQ and not ranges.uniform:
        step = 2 * data.mean_magnitude / sqrt(ranges.grid.highest)
        high = step * ranges.grid.steps_per_threshold
        low = -high
    params = ranges.around(low, high)
    searched = calibration is CalibrationMethod.MSE or (calibration is CalibrationMethod.LSQ and ranges.uniform)
    return search(params, data, ranges) if searched else params


def _extremes(low: np.ndarray, high: np.ndarray, size: int) -> list[str]:
    """Notes for the user about extremes that are not both zero."""
    findings = []
    largest = max(-low.min(), high.max())
    if largest and size > 1 and low.min() == high.max():
        findings.append(f"all {size} values are {float(low.min()):.6g}")
    if 0 < largest < MIN_THRESHOLD:
        smallest = f"the smallest threshold, {MIN_THRESHOLD:.3g}"
        findings.append(f"the largest magnitude, {largest:.3g}, is below {smallest}; levels above it stay unused")
    return findings


def _by_name(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip((RANGE_MIN, RANGE_MAX) if len(values) == 2 else (THRESHOLD,), values, strict=True))
