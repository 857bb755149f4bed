"""Quantizers that learn their number of bits, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trainable_quantizers_core.constants import ATTENTION, STEP
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer

from trainable_quantizers_torch.kernels.effective import TORCH_OPS
from trainable_quantizers_torch.quantizer.base_quantizer import whole
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer


class PytorchCandidatesQuantizer(CandidatesQuantizer, PytorchRangeQuantizer):
    """A quantizer whose candidates and attention are parameters of a module."""

    def initialize_quantization(self, tensor_shape: Any, name: str, layer: torch.nn.Module) -> None:
        """Create the variables on ``layer``, on the device of its parameters."""
        super().initialize_quantization(tensor_shape, name, layer)
        self.bind(layer)

    def bind(self, layer: torch.nn.Module) -> None:
        """Look variables up on ``layer`` from now on, those of the candidates too."""
        super().bind(layer)
        for candidate in self.candidates:
            candidate.bind(layer)

    def __call__(self, inputs: torch.Tensor, training: bool = True) -> torch.Tensor:
        """The quantized ``inputs``: in training the mixture, until the schedule ends; else those of one candidate.

        Raises:
            QuantizerError: ``inputs`` is not a floating tensor.
        """
        self._check_inputs(inputs)
        if not self.enabled:
            return inputs
        each = [candidate(inputs.float(), training) for candidate in self.candidates]
        quantized = self._of_chosen(each)
        if self.schedule is not None and training:
            mixed = sum(share * one for share, one in zip(self.shares(), each, strict=True))
            quantized = torch.where(self._learns(), mixed, quantized)
        return quantized.to(inputs.dtype)

    def shares(self) -> torch.Tensor:
        """softmax(a/τ): how much each candidate counts at the present step; 1 and 0 once the schedule ended."""
        attention = self._attention()
        chosen = torch.arange(len(self.candidates), device=attention.device) == attention.argmax()
        if self.schedule is None:
            return chosen.float()
        temperature = self.schedule.temperature(TORCH_OPS, self.get_quantizer_variable(STEP))
        return torch.where(self._learns(), torch.softmax(attention / temperature, 0), chosen.float())

    def _attention(self) -> torch.Tensor:
        return whole(self._current(ATTENTION)).float()

    def _of_chosen(self, each: Sequence[torch.Tensor]) -> torch.Tensor:
        chosen = self._attention().argmax()
        found = each[0]
        for position, other in enumerate(each[1:], 1):
            found = torch.where(chosen == position, other, found)
        return found
