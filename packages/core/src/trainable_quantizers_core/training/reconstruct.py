"""Reconstruction: weights fitted so that each layer or block gives its float output; shared by both frameworks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any

from mct_quantizers import QuantizationTarget

from trainable_quantizers_core.constants import FLIP_RATE, MOVES, TABLED
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.quantizer.oscillations import shares
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class
from trainable_quantizers_core.quantizer.schedule import LAST_STEP, QuantizationSchedule

_OWNER = "reconstruct"
STRENGTH = 0.01
"""Of the regularizer, beside the relative error of the layer."""


@dataclass(frozen=True)
class Reconstruction:
    """The settings of a reconstruction.

    Args:
        steps: Steps of Adam for each layer, the first fifth without regularizer, or for each block.
        learning_rate: Of Adam.
        blocks: Names or patterns of names.

    Raises:
        QuantizerError: an invalid number of steps, learning rate or pattern.
    """

    steps: int
    learning_rate: float
    blocks: Sequence[str] = ()

    def __post_init__(self) -> None:
        integer = isinstance(self.steps, Integral) and not isinstance(self.steps, bool)
        if not integer or not 5 <= self.steps <= LAST_STEP:
            advice = "1000 is usual; more take longer and gain little"
            raise invalid(_OWNER, "steps", f"an integer in 5..{LAST_STEP}", self.steps, advice)
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < 1:
            raise invalid(_OWNER, "learning_rate", "above 0 and below 1", self.learning_rate, "0.01 is usual")
        if isinstance(self.blocks, str) or not all(isinstance(each, str) for each in self.blocks):
            raise invalid(_OWNER, "blocks", "a sequence of names", self.blocks, "write ('blocks.*',) for one pattern")

    def rate(self, step: int) -> float:
        """The learning rate of a block: it falls to 0 along half a cosine.

        Examples:
            >>> Reconstruction(100, 0.01).rate(50)
            0.005
        """
        return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2

    def found_blocks(self, names: Iterable[str], layers: Collection[str], separator: str) -> dict[str, list[str]]:
        """The layers of each block, by its name; of blocks inside blocks the outer ones.

        Args:
            names: Of all that the model holds, what holds others before that.
            layers: Names of the layers with quantized weights.
            separator: Between the name of a block and that of what it holds.

        Raises:
            QuantizerError: a pattern that nothing with quantized weights matches.

        Examples:
            >>> how = Reconstruction(100, 0.01, blocks=["block*"])
            >>> how.found_blocks(["conv", "block1", "block1.conv"], ["conv", "block1.conv"], ".")
            {'block1': ['block1.conv']}
        """
        held = {name: [each for each in layers if f"{each}{separator}".startswith(name + separator)] for name in names}
        holding = [name for name, inside in held.items() if inside]
        for pattern in self.blocks:
            if not any(fnmatchcase(name, pattern) for name in holding):
                rule = "names of layers with quantized weights, or of blocks that hold them"
                raise invalid(_OWNER, "blocks", rule, pattern, nearest(pattern, holding))
        found: dict[str, list[str]] = {}
        for name in holding:
            inside = any(name.startswith(block + separator) for block in found)
            if not inside and any(fnmatchcase(name, pattern) for pattern in self.blocks):
                found[name] = held[name]
        return found

    def check_calls(self, block: str, calls: int) -> None:
        """Check that a batch calls a block once: quantizers differ between the runs of a forward that runs twice.

        Raises:
            QuantizerError: a batch calls a block more than once.
        """
        if calls != 1:
            advice = "name the blocks inside it, or leave it out: its layers are reconstructed one by one then"
            raise invalid(_OWNER, "blocks", "modules that a batch calls once", block, advice)

    def check_quantizers(self, quantizers: Iterable[RangeQuantizer]) -> None:
        """Check the quantizers before any weight changes.

        Raises:
            QuantizerError: a weight is quantized to a look-up table, learns its width, or has elements that are frozen
                because they oscillated.
        """
        for each in quantizers:
            if each.specification.method in TABLED:
                rule, advice = "of evenly spaced levels", "train the table instead, or give these layers another method"
                raise invalid(_OWNER, "quantizers of weights", rule, type(each).__name__, advice)
            if isinstance(each, CandidatesQuantizer):
                advice = "reconstruct what prepare makes of its learned_recipe"
                raise invalid(_OWNER, "quantizers of weights", "of one width", type(each).__name__, advice)
            if each.oscillations is None:
                continue
            frozen = shares(each.read_variable(MOVES), each.read_variable(FLIP_RATE))["frozen"]
            if frozen:
                rule, advice = "of weights that can all move", "reconstruct before the training that freezes weights"
                raise invalid(_OWNER, "quantizers of weights", rule, f"{frozen:.1%} frozen", advice)

    def softly_rounding(self, quantizer: RangeQuantizer, base: type) -> Any:
        """A quantizer of the same weight that learns rounding and nothing else; it has no variables yet."""
        method = quantizer.specification.method
        found = get_trainable_quantizer_class(QuantizationTarget.Weights, TrainingMethod.ADAROUND, method, base)
        schedule = QuantizationSchedule(start=self.steps // 5, ramp=self.steps - self.steps // 5)
        config: Any = quantizer.quantization_config
        return found(replace(config, ewgs=0.0), freeze_quant_params=True, schedule=schedule)


def check_biases(rows: Iterable[Any]) -> None:
    """Refuse corrected biases: the target is the float model, which does not have them.

    Args:
        rows: Of the model's summary.

    Raises:
        QuantizerError: some biases were corrected.
    """
    corrected = [row.layer for row in rows if "bias corrected" in row.reason]
    if corrected:
        advice = "prepare with bias_correction = false: reconstruction keeps the means of layers anyway"
        raise invalid(_OWNER, "model", "one whose biases are those of the float model", corrected[0], advice)
