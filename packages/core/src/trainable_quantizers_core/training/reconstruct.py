"""Weights rounded so that each layer gives what it gave in float: what both frameworks share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from mct_quantizers import QuantizationTarget

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class
from trainable_quantizers_core.quantizer.schedule import LAST_STEP, QuantizationSchedule
from trainable_quantizers_core.quantizer.specification import TABLED

_OWNER = "reconstruct"
STRENGTH = 0.01
"""Of the regularizer, beside the relative error of the layer."""


@dataclass(frozen=True)
class Reconstruction:
    """How long each layer is reconstructed.

    Args:
        steps: Steps of Adam for each layer; the first fifth without regularizer.
        learning_rate: Of Adam.

    Raises:
        QuantizerError: no number of steps, or no positive learning rate.
    """

    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        integer = isinstance(self.steps, Integral) and not isinstance(self.steps, bool)
        if not integer or not 5 <= self.steps <= LAST_STEP:
            advice = "1000 are usual; more cost time, and gain little"
            raise invalid(_OWNER, "steps", f"an integer in 5..{LAST_STEP}", self.steps, advice)
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < 1:
            raise invalid(_OWNER, "learning_rate", "above 0 and below 1", self.learning_rate, "0.01 is usual")

    def softly_rounding(self, quantizer: RangeQuantizer, base: type) -> Any:
        """A quantizer of the same weight that learns rounding and nothing else; it has no variables yet.

        Raises:
            QuantizerError: the weight is quantized to a look-up table, or learns its width.
        """
        method = quantizer.specification.method
        if method in TABLED:
            advice = "train the table instead, or give these layers another method"
            raise invalid(_OWNER, "quantizers of weights", "of evenly spaced levels", type(quantizer).__name__, advice)
        if isinstance(quantizer, CandidatesQuantizer):
            advice = "reconstruct what prepare makes of its learned_recipe"
            raise invalid(_OWNER, "quantizers of weights", "of one width", type(quantizer).__name__, advice)
        found = get_trainable_quantizer_class(QuantizationTarget.Weights, TrainingMethod.ADAROUND, method, base)
        schedule = QuantizationSchedule(start=self.steps // 5, ramp=self.steps - self.steps // 5)
        config: Any = quantizer.quantization_config
        return found(replace(config, ewgs=0.0), freeze_quant_params=True, schedule=schedule)


def check_biases(rows: Iterable[Any]) -> None:
    """The float model must be the target, and biases that ``prepare`` corrected are none of it.

    Args:
        rows: Of the model's summary.

    Raises:
        QuantizerError: some biases were corrected.
    """
    corrected = [row.layer for row in rows if "bias corrected" in row.reason]
    if corrected:
        advice = "prepare with bias_correction = false: layers that are reconstructed keep their means by themselves"
        raise invalid(_OWNER, "model", "one whose biases are those of the float model", corrected[0], advice)
