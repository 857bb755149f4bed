"""The quantizers of a live model, for parameter files and reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import MAX_RANGE, MIN_RANGE, TABLE, THRESHOLD
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import effective_threshold, effective_uniform_range
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.table import effective_table
from trainable_quantizers_core.report.data import TensorReport
from trainable_quantizers_core.report.measure import measure
from trainable_quantizers_core.training.matching import match
from trainable_quantizers_core.training.parameter_file import QuantizerState, load_parameters, save_parameters
from trainable_quantizers_core.training.telemetry import gradient_ratio


@dataclass(frozen=True, eq=False)
class PlacedQuantizer:
    """A quantizer with variables, and where it stands.

    Args:
        layer: Name of the layer whose weight or output is quantized.
        attribute: The quantized part of it: ``weight``, ``kernel``, ``output``, ...
        quantizer: One of the shipped quantizers, or one that is derived from them.
        holder: The wrapper or holder of the framework that holds it.
    """

    layer: str
    attribute: str
    quantizer: RangeQuantizer
    holder: Any

    @property
    def target(self) -> str:
        """``"weights"`` or ``"activation"``."""
        return str(self.quantizer.quantization_config.target)  # type: ignore[attr-defined]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The parameters by name, of variables in the log2 domain too."""
        return {name: self.quantizer.read_variable(name) for name in self.quantizer.specification.initial}

    def gradient_ratio(self, gradients: Sequence[np.ndarray], x: np.ndarray, its_gradient: np.ndarray) -> float:
        """``gradient_ratio`` of its parameters, from the gradients of its variables: the same in every domain."""
        values, parameter_gradient = self.values, self.quantizer.specification.parameter_gradient
        found = [parameter_gradient(*each) for each in zip(values, values.values(), gradients, strict=True)]
        return gradient_ratio(list(values.values()), found, x, its_gradient)

    @property
    def accumulator_bits(self) -> int | None:
        """Bits of two's complement that its layer's sums need in the worst case; None if they lie on no known grid."""
        needed = getattr(self.holder, "accumulator_bits", None) if self.target == "weights" else None
        return None if needed is None else needed()

    def state(self, values: Mapping[str, np.ndarray] | None = None) -> QuantizerState:
        """Its state for a parameter file, with its present values or others.

        Raises:
            QuantizerError: a value is not finite.
        """
        specification = self.quantizer.specification
        return QuantizerState(
            layer=self.layer,
            attribute=self.attribute,
            target=self.target,
            quantizer=type(self.quantizer).__name__,
            method=specification.method,
            num_bits=specification.grid.num_bits,
            signed=specification.grid.signed,
            per_channel=specification.channel_axis is not None,
            values=self.values if values is None else values,
            config=self.quantizer.get_config(),
        )

    def report(self) -> TensorReport:
        """Its part of a report, before anything is measured."""
        specification, values = self.quantizer.specification, self.values
        if specification.method is QuantizationMethod.UNIFORM:
            ends = (values[MIN_RANGE], values[MAX_RANGE])
            low, high = effective_uniform_range(NUMPY_OPS, *ends, specification.grid, specification.min_threshold)
            parameters = {MIN_RANGE: low, MAX_RANGE: high}
        else:
            smallest, power_of_two = specification.min_threshold, specification.power_of_two
            parameters = {THRESHOLD: effective_threshold(NUMPY_OPS, values[THRESHOLD], smallest, power_of_two)}
        if TABLE in values:
            parameters[TABLE] = effective_table(NUMPY_OPS, values[TABLE], specification.levels)
        return TensorReport(
            layer=self.layer,
            attribute=self.attribute,
            target=self.target,
            method=specification.method,
            num_bits=specification.grid.num_bits,
            signed=specification.grid.signed,
            parameters=parameters,
            channel_axis=self.quantizer.channel_axis,
            accumulator_bits=self.accumulator_bits,
        )


def accumulator_bits(placed: Iterable[PlacedQuantizer]) -> dict[str, int]:
    """The worst-case accumulator bits of layers, by layer, of those whose sums lie on known grids."""
    needed = {each.layer: each.accumulator_bits for each in placed if each.target == "weights"}
    return {layer: bits for layer, bits in needed.items() if bits is not None}


def save_quantizers(path: str | os.PathLike[str], placed: Iterable[PlacedQuantizer], framework: str) -> None:
    """Write the parameters of quantizers to a file, atomically.

    Raises:
        QuantizerError: there are none, or a variable is not finite.
        ImportError: safetensors is not installed; the message says how to install it.
    """
    states = [each.state() for each in placed]
    if not states:
        raise _without_quantizers("save_quantizers")
    save_parameters(path, states, framework)


def load_quantizers(
    path: str | os.PathLike[str], placed: Sequence[PlacedQuantizer], names: Mapping[str, str] | None = None
) -> None:
    """Load the parameters in a file into quantizers: all, or none if one does not fit.

    Raises:
        QuantizerError: see ``load_parameters`` and ``match``.
        FileNotFoundError: the file does not exist.
        ImportError: safetensors is not installed; the message says how to install it.
    """
    if not placed:
        raise _without_quantizers("load_quantizers")
    # A diverged model may load the parameters of another: its present values do not matter.
    targets = [each.state({name: np.zeros_like(value) for name, value in each.values.items()}) for each in placed]
    of_target = {id(target): each for target, each in zip(targets, placed, strict=True)}
    for state, target in match(load_parameters(path), targets, names):
        for name, value in state.values.items():
            of_target[id(target)].quantizer.write_variable(name, value)


def _without_quantizers(owner: str) -> Exception:
    advice = "prepare it first; a converted model has no parameters left"
    return invalid(owner, "model", "one that holds trainable quantizers", "none", advice)


class Sample:
    """Values of a tensor for a report: at most ``size`` of them, evenly spread over its batches.

    One of each ``stride`` neighbours, drawn by a fixed seed: every ``stride``-th would be of the same few channels.

    Examples:
        >>> sample = Sample(size=4)
        >>> for _ in range(3):
        ...     sample.add(np.arange(6, dtype=np.float32))
        >>> len(sample.values) <= 4
        True
    """

    def __init__(self, size: int = 2**18) -> None:
        self.size = size
        self._stride = 1
        self._kept = np.zeros(0, np.float32)
        self._random = np.random.default_rng(0)

    def add(self, values: np.ndarray) -> None:
        """Values of a further batch."""
        self._kept = np.concatenate([self._kept, self._thinned(np.ravel(values), self._stride)])
        while self._kept.size > self.size:
            self._stride *= 2
            self._kept = self._thinned(self._kept, 2)

    def _thinned(self, values: np.ndarray, stride: int) -> np.ndarray:
        if stride == 1:
            return values
        starts = np.arange(0, values.size, stride)
        return values[starts + self._random.integers(0, np.minimum(stride, values.size - starts))]

    @property
    def values(self) -> np.ndarray:
        """The values that were kept."""
        return self._kept


def measured(
    placed: PlacedQuantizer, x: np.ndarray, quantize: Callable[[np.ndarray], np.ndarray], seen: Mapping[str, int]
) -> TensorReport:
    """The report of a tensor from its values before quantization, and from the bits that sums needed, by layer."""
    bits = seen.get(placed.layer) if placed.target == "weights" else None
    return replace(measure(placed.report(), x, quantize(x)), accumulator_bits_seen=bits)
