"""How much each quantizer alone moves the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np

from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_core.inventory import PlacedQuantizer

_HEAD = ("quantizer", "bits", "output SQNR, dB", "share of the error")


@dataclass(frozen=True)
class QuantizerSensitivity:
    """What one quantizer alone does to the outputs.

    Args:
        layer: Name of the layer.
        attribute: What of it is quantized: ``weight``, ``kernel``, ``output``, ...
        num_bits: Bits of a level.
        error: Σ(y - y_float)² / Σy_float² over all outputs, with this quantizer alone.
    """

    layer: str
    attribute: str
    num_bits: int
    error: float

    @property
    def sqnr(self) -> float:
        """10·log10(1/error), dB; infinite where nothing changes."""
        return 10 * log10(1 / self.error) if self.error else inf


@dataclass(frozen=True)
class Sensitivity:
    """The quantizers of a model, those that move its outputs most first; ``print`` it.

    Args:
        quantizers: One row each.
        error: That of all quantizers together.

    Examples:
        >>> print(Sensitivity((QuantizerSensitivity("head", "weight", 4, 0.01),), 0.0125))
        quantizer    bits  output SQNR, dB  share of the error
        head.weight     4             20.0               100 %
        All together: 19.0 dB.
    """

    quantizers: tuple[QuantizerSensitivity, ...]
    error: float

    def __str__(self) -> str:
        total = sum(each.error for each in self.quantizers)
        rows = [
            (
                f"{each.layer}.{each.attribute}",
                str(each.num_bits),
                f"{each.sqnr:.1f}",
                f"{100 * each.error / total if total else 0:.0f} %",
            )
            for each in self.quantizers
        ]
        lines = in_columns((_HEAD, *rows), 1)
        together = f"{10 * log10(1 / self.error):.1f} dB" if self.error else "the outputs of the float model"
        return "\n".join([*lines, f"All together: {together}."])


def in_columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table: the first ``left`` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def measured_sensitivity(
    placed: Sequence[PlacedQuantizer],
    wrappers: Iterable[Any],
    outputs: Callable[[], Iterable[np.ndarray]],
    keep: Callable[[PlacedQuantizer], bool] = lambda each: True,
) -> Sensitivity:
    """Run a model once in float, once in full, and once with each quantizer alone.

    Args:
        placed: Its quantizers.
        wrappers: What rounds biases to the grids of accumulators; without quantizers there are none.
        outputs: Gives all outputs on all data.
        keep: Which of the quantizers to measure.
    """
    complete = list(outputs())
    rows = []
    with quantizers_set_aside([each.quantizer for each in placed], wrappers):
        expected = list(outputs())
        for each in filter(keep, placed):
            each.quantizer.enabled = True
            try:
                error = _relative(outputs(), expected)
            finally:
                each.quantizer.enabled = False
            bits = each.quantizer.specification.grid.num_bits
            rows.append(QuantizerSensitivity(each.layer, each.attribute, bits, error))
    rows.sort(key=lambda row: -row.error)
    return Sensitivity(tuple(rows), _relative(complete, expected))


def _relative(given: Iterable[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    error = power = 0.0
    for one, other in zip(given, expected, strict=True):
        finite = np.isfinite(one) & np.isfinite(other)
        error += float(np.sum((one[finite] - other[finite]) ** 2))
        power += float(np.sum(other[finite] ** 2))
    return error / power if power else 0.0
