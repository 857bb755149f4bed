"""The error that each quantizer alone causes in the outputs of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.report.part import Part

_HEAD = ("quantizer", "bits", "output SQNR, dB", "share of the error")


@dataclass(frozen=True, eq=False)
class QuantizerSensitivity(Part):
    """The effect of one quantizer alone on the outputs.

    Args:
        layer: Name of the layer.
        attribute: The quantized part of it: ``weight``, ``kernel``, ``output``, ...
        num_bits: Bits of a level.
        error: Σ(y - y_float)² / Σy_float² over all outputs, with this quantizer alone.

    Raises:
        QuantizerError: an error that is no number, or below 0.
    """

    layer: str
    attribute: str
    num_bits: int
    error: float

    def __post_init__(self) -> None:
        _require_error(type(self).__name__, self.error)

    @property
    def name(self) -> str:
        """Layer and attribute."""
        return f"{self.layer}.{self.attribute}"

    @property
    def sqnr(self) -> float:
        """10·log10(1/error), dB; infinite where nothing changes."""
        return _sqnr(self.error)


@dataclass(frozen=True, eq=False)
class Sensitivity(Part):
    """The quantizers of a model, sorted by their effect on its outputs, largest first; ``print`` it.

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

    def __post_init__(self) -> None:
        _require_error(type(self).__name__, self.error)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-compatible values."""
        return {"quantizers": [each.to_dict() for each in self.quantizers], "error": self.error}

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        found = super()._from_dict(data)
        return dataclasses.replace(found, quantizers=tuple(map(QuantizerSensitivity.from_dict, data["quantizers"])))

    @property
    def shares(self) -> list[float]:
        """The share of each quantizer in the sum of all errors: 0..1."""
        total = sum(each.error for each in self.quantizers)
        return [each.error / total if total else 0.0 for each in self.quantizers]

    @property
    def together(self) -> str:
        """The effect of all quantizers together on the outputs, as text."""
        return f"{_sqnr(self.error):.1f} dB" if self.error else "the outputs of the float model"

    def __str__(self) -> str:
        rows = [
            (each.name, str(each.num_bits), f"{each.sqnr:.1f}", f"{100 * share:.0f} %")
            for each, share in zip(self.quantizers, self.shares, strict=True)
        ]
        return "\n".join([*in_columns((_HEAD, *rows), 1), f"All together: {self.together}."])


def _sqnr(error: float) -> float:
    return 10 * log10(1 / error) if error else inf


def _require_error(owner: str, error: Any) -> None:
    if not isinstance(error, (int, float)) or not 0 <= error < inf:
        raise invalid(owner, "error", "a number, at least 0", error, "divide the error by the power of the outputs")


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
