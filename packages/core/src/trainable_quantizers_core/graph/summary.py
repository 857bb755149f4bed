"""The summary of a prepared model: what was quantized in each layer, and why others stayed in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from trainable_quantizers_core.graph.costs import OperationCost
from trainable_quantizers_core.graph.coverage import Coverage
from trainable_quantizers_core.recipe.fields import METHODS
from trainable_quantizers_core.recipe.schemes import ActivationsScheme, WeightsScheme

_FOLDED, _AT_CONVERSION = "folded into ", " at conversion"


@dataclass(frozen=True)
class SummaryRow:
    """How one layer was quantized.

    Args:
        layer: Its full name.
        type: The name of its class, or of the operation.
        weights: How its weights are quantized; empty if they are not.
        activations: How its output is quantized; empty if it is not.
        reason: What decided, or why it was left in float.
        findings: Notes for the user from calibration.

    Examples:
        >>> found = Summary((SummaryRow("stem", "Conv2d", "4-bit power of two, LSQ"), SummaryRow("head", "Linear")))
        >>> [row.layer for row in found.rows if not row.weights]
        ['head']
    """

    layer: str
    type: str
    weights: str = ""
    activations: str = ""
    reason: str = ""
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """All layers of a model, in order of execution; ``print`` it.

    Args:
        rows: One for each layer.
        work: The share of the model that computes on quantized numbers.
        runtime: The package that the converted model needs besides mct-quantizers; empty if it needs none.
        costs: The costs of its operations by widths.

    Examples:
        >>> print(Summary((SummaryRow("head", "Linear", "4-bit power of two, LSQ", "", "default"),)))
        layer  type    weights                  activations  reason
        -----  ------  -----------------------  -----------  -------
        head   Linear  4-bit power of two, LSQ  float        default
        1 weight and 0 activation quantizers; 0 of 1 layers left in float.
    """

    rows: tuple[SummaryRow, ...]
    work: Coverage = field(default_factory=Coverage)
    runtime: str = ""
    costs: tuple[OperationCost, ...] = field(default=(), repr=False)

    @property
    def coverage(self) -> float:
        """The share of the multiply-accumulates whose weights and inputs are quantized, from 0 to 1."""
        return self.work.share

    @property
    def folded(self) -> dict[str, str]:
        """The layer that each folded batch norm is a part of, by the name of the norm."""
        rows = (row for row in self.rows if row.reason.startswith(_FOLDED))
        return {row.layer: row.reason.removeprefix(_FOLDED).removesuffix(_AT_CONVERSION) for row in rows}

    def with_norms(self, folded: Mapping[str, str], at_conversion: bool = False) -> Summary:
        """The summary with the batch norms that fold into layers.

        Args:
            folded: The layer that each folded norm is a part of, by the name of the norm.
            at_conversion: Whether they fold at conversion, and normalize until then.

        Examples:
            >>> [row.layer for row in Summary((SummaryRow("conv", "Conv2d"),)).with_norms({"norm": "conv"}).rows]
            ['conv', 'norm']
        """
        not_folded = "not folded: it is not the only reader of a convolution or linear layer"
        rows = [
            replace(row, reason=f"{row.reason}; {not_folded}") if "BatchNorm" in row.type else row for row in self.rows
        ]
        for norm, layer in folded.items():
            at = max((at for at, row in enumerate(rows) if row.layer == layer), default=len(rows) - 1)
            reason = f"{_FOLDED}{layer}{_AT_CONVERSION if at_conversion else ''}"
            rows.insert(at + 1, SummaryRow(norm, "batch norm", reason=reason))
        return replace(self, rows=tuple(rows))

    def with_equalized(self, equalized: Mapping[str, str]) -> Summary:
        """The summary with the layers that were equalized.

        Args:
            equalized: The layer that the channels of a layer were scaled into, by name.

        Examples:
            >>> row = SummaryRow("one", "Conv2d", reason="default")
            >>> Summary((row,)).with_equalized({"one": "other"}).rows[0].reason
            'default; equalized with other'
        """

        def said(row: SummaryRow) -> str:
            return f"{row.reason}; equalized with {equalized[row.layer]}"

        rows = [replace(row, reason=said(row)) if row.layer in equalized else row for row in self.rows]
        return replace(self, rows=tuple(rows))

    def with_accumulators(self, bits: Mapping[str, int], seen: Mapping[str, int] = MappingProxyType({})) -> Summary:
        """The summary with the accumulator bits of each layer: the worst case, and those needed on data.

        Examples:
            >>> row = SummaryRow("conv", "Conv2d", reason="default")
            >>> Summary((row,)).with_accumulators({"conv": 19}, {"conv": 14}).rows[0].reason
            'default; sums of up to 19 bits, 14 seen'
        """

        def said(row: SummaryRow) -> str:
            needed = f", {seen[row.layer]} seen" if row.layer in seen else ""
            return f"{row.reason}; sums of up to {bits[row.layer]} bits{needed}"

        rows = [replace(row, reason=said(row)) if row.layer in bits else row for row in self.rows]
        return replace(self, rows=tuple(rows))

    def __str__(self) -> str:
        head = ("layer", "type", "weights", "activations", "reason")
        cells = [
            (row.layer, row.type, row.weights or "float", row.activations or "float", row.reason) for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = [head, tuple("-" * width for width in widths), *cells]
        texts = [_joined(line, widths) for line in lines]
        texts += [f"{row.layer}: {finding}" for row in self.rows for finding in row.findings]
        weights = sum(bool(row.weights) for row in self.rows)
        activations = sum(bool(row.activations) for row in self.rows)
        left = sum(not row.weights and not row.activations for row in self.rows)
        counted = f"{weights} weight and {activations} activation quantizers"
        texts.append(f"{counted}; {left} of {len(self.rows)} layers left in float.")
        texts += [str(self.work)] if self.work.work or self.work.sums else []
        texts += [f"The converted model needs {self.runtime} to run; exported files do not."] if self.runtime else []
        return "\n".join(texts)


def _joined(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def scheme_in_words(scheme: WeightsScheme | ActivationsScheme) -> str:
    """A scheme as text, such as ``4-bit power of two, LSQ, per channel``.

    Examples:
        >>> scheme_in_words(WeightsScheme(num_bits=4))
        '4-bit power of two, LSQ, per channel'
    """
    word = next(word for word, method in METHODS.items() if method is scheme.method)
    method = word.replace("_", " ").replace("lut", "look-up table,")
    training = getattr(scheme.training_method, "value", scheme.training_method)
    granularity = getattr(scheme, "granularity", None)
    per = f", {granularity.value.replace('_', ' ')}" if granularity is not None else ""
    when = f"{', frozen' if scheme.freeze else ''}{', scheduled' if scheme.schedule else ''}"
    widths = "/".join(map(str, getattr(scheme, "bits_candidates", None) or (scheme.num_bits,)))
    return f"{widths}-bit {method}, {training}{per}{when}"
