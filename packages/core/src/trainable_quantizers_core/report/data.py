"""The data of a report, without any drawing; lossless to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from numbers import Integral
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import MAX_RANGE, MIN_RANGE, TABLE, TABLED, TARGETS, THRESHOLD
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_core.quantizer.serialization import encode
from trainable_quantizers_core.quantizer.table import table_grid
from trainable_quantizers_core.report.part import Part
from trainable_quantizers_core.report.sensitivity import Sensitivity

METHODS = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM, *TABLED)


@dataclass(frozen=True, eq=False)
class TensorReport(Part):
    """One quantized tensor: how it is quantized, and, once measured, what that does to its values.

    Args:
        layer: Name of the layer.
        attribute: The quantized part of it: ``weight``, ``kernel``, ``output``, ...
        target: ``"weights"`` or ``"activation"``.
        method: POWER_OF_TWO, SYMMETRIC or UNIFORM, or that of a look-up table.
        num_bits: Bits of a level.
        signed: Whether there are levels below zero.
        parameters: Effective parameters: ``threshold``, or ``min_range`` and ``max_range`` when uniform; of shape
            () per tensor, (channels,) per channel. Of a look-up table also ``table``, the levels of its entries.
        channel_axis: Axis of the channels that have parameters of their own; None is per tensor.
        bits_before: Bits of a value before quantization.
        elements: Number of values measured.
        not_finite: How many of them are NaN or infinite.
        counts: Histogram of the finite values, per bin.
        clipped_counts: How many of each bin's values are clipped.
        edges: Ends of the bins, one more than there are bins.
        clipped: Share of the values that are clipped, 0..1.
        levels_used: Share of the levels that occur, 0..1.
        range_used: Share of the effective range between the smallest and the largest value, 0..1; the mean of channels.
        sqnr: Signal to quantization noise ratio in dB; infinite when nothing is lost.
        accumulator_bits: Of weights: bits of two's complement that the sums of the layer, bias included, need in the
            worst case; None if they lie on no power-of-two grid.
        accumulator_bits_seen: Of weights: bits that the sums needed on the data of the report.

    Raises:
        QuantizerError: a target, method or parameters that do not fit.
    """

    layer: str
    attribute: str
    target: str
    method: QuantizationMethod
    num_bits: int
    signed: bool
    parameters: Mapping[str, np.ndarray]
    channel_axis: int | None = None
    bits_before: int = 32
    elements: int = 0
    not_finite: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    clipped_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    clipped: float = 0.0
    levels_used: float = 0.0
    range_used: float = 0.0
    sqnr: float = inf
    accumulator_bits: int | None = None
    accumulator_bits_seen: int | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            advice = nearest(self.target, TARGETS)
            raise invalid("TensorReport", "target", "'weights' or 'activation'", self.target, advice)
        if self.method not in METHODS:
            advice = "only methods of the shipped quantizers are reported"
            rule = f"one of {', '.join(method.name for method in METHODS)}"
            raise invalid("TensorReport", "method", rule, self.method, advice)
        for name, given in (("num_bits", self.num_bits), ("channel_axis", self.channel_axis or 0)):
            if not isinstance(given, Integral):
                raise invalid("TensorReport", name, "an integer", given, "give a plain integer")
        names = [MIN_RANGE, MAX_RANGE] if self.method is QuantizationMethod.UNIFORM else [THRESHOLD]
        names += [TABLE] if self.method in TABLED else []
        if sorted(self.parameters) != sorted(names):
            rule = f"those of a {self.method.name} quantizer"
            raise invalid("TensorReport", "parameters", rule, list(self.parameters), f"give {' and '.join(names)}")
        effective = {name: np.asarray(self.parameters[name], np.float32) for name in names}
        for name, value in effective.items():
            if name == TABLE and value.shape != (2**self.num_bits,):
                advice = "a table has 2^num_bits entries"
                raise invalid("TensorReport", name, f"of {2**self.num_bits} levels", value.tolist(), advice)
            if name != TABLE and (value.ndim != self.per_channel or value.size == 0):
                rule = "of shape (channels,)" if self.per_channel else "a scalar"
                advice = "give channel_axis for parameters per channel, and none for one per tensor"
                raise invalid("TensorReport", name, rule, value.tolist(), advice, f" for {self.layer!r}")
            if not np.isfinite(value).all():
                advice = "pass effective parameters, which are always finite"
                raise invalid("TensorReport", name, "finite", value.tolist(), advice, f" for {self.layer!r}")
        object.__setattr__(self, "parameters", effective)
        low, high = self.range
        if not (low < high).all():
            values = {name: value.tolist() for name, value in effective.items()}
            advice = "pass effective parameters, which always leave a range"
            raise invalid("TensorReport", "parameters", "a range of some width", values, advice, f" for {self.layer!r}")

    @property
    def measured(self) -> bool:
        """Whether ``measure`` completed it; without data, activations are not."""
        return self.counts.size > 0

    @property
    def per_channel(self) -> bool:
        """Whether each channel has parameters of its own."""
        return self.channel_axis is not None

    @property
    def grid(self) -> Grid:
        """The levels, of a table those that its entries can have; a uniform range counts them from its lower end."""
        if self.method in TABLED:
            return table_grid(self.signed)
        return Grid(self.num_bits, self.signed and self.method is not QuantizationMethod.UNIFORM)

    @property
    def places(self) -> np.ndarray:
        """Where in the range its 2^b levels lie, from 0 for the lowest to 1 for the highest value."""
        if self.method in TABLED:
            return (self.parameters[TABLE] - self.grid.lowest) / self.grid.num_steps
        return np.linspace(0, 1, self.grid.num_steps + 1)

    @property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest value that can be represented, of shape () or (channels,)."""
        if self.method is QuantizationMethod.UNIFORM:
            return self.parameters[MIN_RANGE], self.parameters[MAX_RANGE]
        low, high = rules.symmetric_range(self.parameters[THRESHOLD], self.grid)
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    @property
    def typical_range(self) -> tuple[float, float]:
        """The range of the tensor; per channel that of the channel of median width."""
        low, high = (end.reshape(-1) for end in self.range)
        median = np.argsort(high - low, kind="stable")[(low.size - 1) // 2]
        return float(low[median]), float(high[median])

    @property
    def size(self) -> tuple[float, float]:
        """Bytes before and after quantization, parameters included (tables in 8 bits): what weights take."""
        bits = sum(
            value.size * (self.grid.num_bits if name == TABLE else 32) for name, value in self.parameters.items()
        )
        return self.elements * self.bits_before / 8, (self.elements * self.num_bits + bits) / 8


@dataclass(frozen=True, eq=False)
class SkippedLayer(Part):
    """A layer that stayed in float, and why."""

    name: str
    type: str
    reason: str


@dataclass(frozen=True, eq=False)
class ModelReport(Part):
    """All of a model.

    Args:
        model: Name of the model.
        framework: For example ``"PyTorch 2.13"``.
        tensors: The quantized tensors, in the order of the model.
        skipped: The layers that were left in float.
        accuracies: Accuracies to show as well, by label: ``{"float": 0.982, "quantized": 0.979}``.
        coverage: From the summary, by name: ``work``, ``quantized_work``, ``sums``, ``quantized_sums``.
        sensitivity: How much each quantizer alone moves the outputs; None if that was not measured.
    """

    model: str
    framework: str
    tensors: tuple[TensorReport, ...]
    skipped: tuple[SkippedLayer, ...] = ()
    accuracies: Mapping[str, float] = field(default_factory=dict)
    coverage: Mapping[str, int] = field(default_factory=dict)
    sensitivity: Sensitivity | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-compatible values."""
        parts = {name: [part.to_dict() for part in getattr(self, name)] for name in ("tensors", "skipped")}
        figures = {name: encode(getattr(self, name)) for name in ("accuracies", "coverage")}
        costs = None if self.sensitivity is None else self.sensitivity.to_dict()
        return {"model": self.model, "framework": self.framework, **parts, **figures, "sensitivity": costs}

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> ModelReport:
        report = super()._from_dict(data)
        tensors = tuple(TensorReport.from_dict(part) for part in data["tensors"])
        skipped = tuple(SkippedLayer.from_dict(part) for part in data.get("skipped", ()))
        costs = data.get("sensitivity")
        sensitivity = None if costs is None else Sensitivity.from_dict(costs)
        return dataclasses.replace(report, tensors=tensors, skipped=skipped, sensitivity=sensitivity)

    @property
    def size(self) -> tuple[float, float]:
        """Bytes of the quantized weights before and after; activations are not stored."""
        sizes = [tensor.size for tensor in self.tensors if tensor.target == "weights"]
        return sum(before for before, _ in sizes), sum(after for _, after in sizes)

    @property
    def worst(self) -> TensorReport | None:
        """The tensor that lost most: of those measured, the one of the lowest SQNR."""
        return min((tensor for tensor in self.tensors if tensor.measured), key=lambda tensor: tensor.sqnr, default=None)
