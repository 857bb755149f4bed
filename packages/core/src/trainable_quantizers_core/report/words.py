"""The data of a report as text, for both the page and the terminal."""

from __future__ import annotations

from math import inf

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import TABLE
from trainable_quantizers_core.report.data import ModelReport, TensorReport

_METHODS = {
    QuantizationMethod.POWER_OF_TWO: "power of two",
    QuantizationMethod.SYMMETRIC: "symmetric",
    QuantizationMethod.UNIFORM: "uniform",
    QuantizationMethod.LUT_POT_QUANTIZER: "look-up table, power of two",
    QuantizationMethod.LUT_SYM_QUANTIZER: "look-up table, symmetric",
}


def name(tensor: TensorReport) -> str:
    """Layer and attribute."""
    return f"{tensor.layer}.{tensor.attribute}"


def scheme(tensor: TensorReport) -> str:
    """Method, signedness where the method leaves a choice, granularity, bits of the accumulator."""
    sign = "" if tensor.method is QuantizationMethod.UNIFORM else ", signed" if tensor.signed else ", unsigned"
    seen = f", {tensor.accumulator_bits_seen} seen" if tensor.accumulator_bits_seen else ""
    sums = f", sums of up to {tensor.accumulator_bits} bits{seen}" if tensor.accumulator_bits else ""
    return f"{_METHODS[tensor.method]}{sign}{', per channel' if tensor.per_channel else ''}{sums}"


def parameters(tensor: TensorReport) -> str:
    """The threshold or the range; per channel from the smallest to the largest.

    Examples:
        >>> parameters(TensorReport("relu", "output", "activation", QuantizationMethod.UNIFORM, 8, False,
        ...                         {"min_range": -0.5, "max_range": 2.0}))
        '[-0.5, 2]'
    """
    values = [span(value) for name, value in tensor.parameters.items() if name != TABLE]
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def span(values: np.ndarray) -> str:
    """One number, or the smallest and the largest of several."""
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low} … {high}"


def number(value: float) -> str:
    """Three significant digits.

    Examples:
        >>> number(0.123456), number(2.0)
        ('0.123', '2')
    """
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share of 1 in percent; a share above zero never reads as zero.

    Examples:
        >>> percent(0.0), percent(0.12345), percent(1e-7)
        ('0 %', '12.3 %', '< 0.01 %')
    """
    if 0 < share < 1e-4:
        return "< 0.01 %"
    return f"{100 * share:.3g} %"


def decibels(sqnr: float) -> str:
    """A ratio in dB; an infinite one reads as ``exact``.

    Examples:
        >>> decibels(31.26), decibels(inf), decibels(-inf)
        ('31.3 dB', 'exact', '-inf dB')
    """
    return "exact" if sqnr == inf else f"{sqnr:.1f} dB"


def figures(tensor: TensorReport) -> tuple[str, str, str, str]:
    """Clipped, levels used, SQNR and number of values; of a tensor that was not measured, dashes."""
    if not tensor.measured:
        return ("–",) * 4
    return percent(tensor.clipped), percent(tensor.levels_used), decibels(tensor.sqnr), f"{tensor.elements:,}"


def size(count: float) -> str:
    """Bytes, in the largest unit that leaves at least 1.

    Examples:
        >>> size(0), size(1536), size(3 * 2**20)
        ('0 B', '1.5 KiB', '3 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.3g} GiB" if count < 1000 else f"{count:,.0f} GiB"


def totals(report: ModelReport) -> dict[str, tuple[str, str]]:
    """The headline figures: by label, a figure and its explanation."""
    layers = {tensor.layer for tensor in report.tensors}
    weights = sum(tensor.target == "weights" for tensor in report.tensors)
    tensors = f"{weights} of weights, {len(report.tensors) - weights} of activations"
    shown = {"Quantized tensors": (str(len(report.tensors)), f"{tensors}, in {len(layers)} layers")}
    before, after = report.size
    if after:
        shown["Quantized weights"] = (f"{before / after:.1f}× smaller", f"{size(before)} → {size(after)}")
    if report.worst:
        shown["Lowest SQNR"] = (decibels(report.worst.sqnr), name(report.worst))
    widest = max(report.tensors, key=lambda tensor: tensor.accumulator_bits or 0, default=None)
    if widest is not None and widest.accumulator_bits:
        shown["Widest accumulator"] = (f"{widest.accumulator_bits} bits", f"at worst, {widest.layer}")
    if report.coverage.get("work"):
        share = int(1000 * report.coverage["quantized_work"] / report.coverage["work"]) / 10
        sums = f"{report.coverage['quantized_sums']} of {report.coverage['sums']} sums"
        shown["Quantized work"] = (f"{share} %", f"of the multiply-accumulates, and {sums}")
    if report.skipped:
        shown["Left in float"] = (str(len(report.skipped)), "layers, each with its reason")
    return {**shown, **{f"Accuracy, {label}": (f"{value:.4g}", "") for label, value in report.accuracies.items()}}
