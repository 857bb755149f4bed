"""Quantizers that learn their number of bits: an attention-weighted mixture of candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from trainable_quantizers_core.constants import ATTENTION, GROUP, STEP, VAR
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.gradient_rule import LSQ
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.specification import RangeSpecification


class CandidatesQuantizer(RangeQuantizer):
    """A quantizer of weights with one quantizer for each candidate, and a variable that weights them.

    ``attention`` has one number for each candidate: first that of ``weights_n_bits``, then the others from wide to
    narrow. The candidate with the most attention, or the first of equal ones, is in use: it decides evaluation,
    conversion, step and range.
    """

    gradient = LSQ
    candidate_class: ClassVar[type[RangeQuantizer]]
    """The class of the quantizers of the candidates."""

    def _configure(self, config: Any) -> None:
        RangeSpecification.from_config(type(self).__name__, config)
        self.quantization_config = config
        given = config.weights_quantization_candidates or ()
        params = {candidate.n_bits: candidate.quantization_params for candidate in given}
        if len(params) < max(len(given), 1) or config.num_bits not in params:
            rule = f"candidates of different widths, one of them of {config.num_bits} bits as weights_n_bits"
            advice = "write TrainableQuantizerCandidateConfig(n_bits, params) for each width to choose from"
            name = "weights_quantization_candidates"
            raise invalid(type(self).__name__, name, rule, [candidate.n_bits for candidate in given], advice)
        schedule = self.schedule and replace(self.schedule, start=0, ramp=0)
        self.candidates: list[Any] = [
            self.candidate_class(
                replace(
                    config,
                    weights_n_bits=bits,
                    weights_quantization_params=params[bits],
                    weights_quantization_candidates=None,
                ),
                self.freeze_quant_params,
                schedule if schedule is not None and schedule.holds else None,
            )
            for bits in sorted(params, key=lambda bits: (bits != config.num_bits, -bits))
        ]

    def _check_oscillations(self) -> None:
        if self.oscillations is not None:
            advice = "leave them out; weights have levels of several widths until theirs is learned"
            raise invalid(type(self).__name__, "oscillations", "None for learned widths", self.oscillations, advice)

    def __repr__(self) -> str:
        widths = ", ".join(map(str, self.widths))
        return f"{type(self).__name__}(one of {widths} bits: {self.candidates[0]!r}, {self.schedule})"

    @property
    def widths(self) -> list[int]:
        """The bits of the candidates, in the order of ``attention``."""
        return [candidate.specification.grid.num_bits for candidate in self.candidates]

    @property
    def in_use(self) -> Any:
        """The quantizer of the candidate with the most attention."""
        if not self.quantizer_parameters:
            return self.candidates[0]
        return self.candidates[np.argmax(self._read_variable(self._current(ATTENTION)))]

    @property
    def specification(self) -> RangeSpecification:  # type: ignore[override]
        """The specification of the candidate in use."""
        return self.in_use.specification  # type: ignore[no-any-return]

    @property
    def structure(self) -> dict[str, Any]:
        """The structure of a candidate, with the bits of all."""
        return {**self.candidates[0].structure, "num_bits": self.widths}

    @property
    def _held(self) -> tuple[str, ...]:
        return () if self.schedule is None else (ATTENTION,)

    def _learns(self) -> Any:
        schedule: Any = self.schedule
        return self.get_quantizer_variable(STEP) < schedule.full_from

    def _create_variables(self, layer: Any, name: str, values: dict[str, np.ndarray], trainable: bool) -> None:
        attention = {ATTENTION: np.zeros(len(self.candidates), np.float32)}
        super()._create_variables(layer, name, attention, self.schedule is not None)

    def initialize_quantization(self, tensor_shape: Any, name: str, layer: Any) -> None:
        """Create the attention and the variables of each candidate, such as ``4bit_threshold``."""
        super().initialize_quantization(tensor_shape, name, layer)
        for bits, candidate in zip(self.widths, self.candidates, strict=True):
            candidate.initialize_quantization(tensor_shape, f"{name}_{bits}bit", layer)
            for variable, entry in candidate.quantizer_parameters.items():
                self.add_quantizer_variable(f"{bits}bit_{variable}", entry[VAR], entry[GROUP])

    def _of_range(self, name: str) -> bool:
        return name in self.candidates[0].specification.initial

    def get_quantizer_variable(self, name: str) -> Any:
        """The variable registered under ``name``; a threshold or end is that of the candidate in use."""
        if self._of_range(name):
            return self.in_use.get_quantizer_variable(name)
        return super().get_quantizer_variable(name)

    def read_variable(self, name: str) -> np.ndarray:
        """The value of a variable that the next call uses; a threshold or end is that of the candidate in use."""
        if self._of_range(name):
            return self.in_use.read_variable(name)
        return super().read_variable(name)

    def write_variable(self, name: str, value: np.ndarray) -> None:
        """Give a variable a value of its shape; a threshold or end is that of the candidate in use."""
        if self._of_range(name):
            self.in_use.write_variable(name, value)
        else:
            super().write_variable(name, value)

    def _inferable(self) -> Any:
        return self.in_use.convert2inferable()

    def advance(self, steps: Any = 1) -> None:
        """Report ``steps`` more steps of the optimizer: a number, or a tensor."""
        super().advance(steps)
        for candidate in self.candidates:
            candidate.advance(steps)

    def choose(self, bits: int) -> None:
        """Use the candidate of a width: unless it is in use, give it an attention of one more than any other."""
        if self.in_use.specification.grid.num_bits != bits:
            attention = self.read_variable(ATTENTION).copy()
            attention[self.widths.index(bits)] = attention.max() + 1
            self.write_variable(ATTENTION, attention)

    @abstractmethod
    def shares(self) -> Any:
        """softmax(a/τ): how much each candidate counts at the present step; 1 and 0 once the schedule ended."""

    @abstractmethod
    def _of_chosen(self, each: Sequence[Any]) -> Any:
        """Of one tensor for each candidate, that of the candidate in use; works inside compiled functions."""

    def step(self) -> Any:
        """Δ of the candidate in use, of shape () or (channels,); nothing learns through it."""
        return self._of_chosen([candidate.step() for candidate in self.candidates])

    def effective_range(self) -> tuple[Any, Any]:
        """(min, max) of the candidate in use."""
        low, high = zip(*(candidate.effective_range() for candidate in self.candidates), strict=True)
        return self._of_chosen(low), self._of_chosen(high)
