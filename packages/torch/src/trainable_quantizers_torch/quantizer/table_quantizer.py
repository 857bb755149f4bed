"""Quantizers to the entries of a look-up table in PyTorch."""

from __future__ import annotations

import torch
from mct_quantizers import QuantizationTarget
from trainable_quantizers_core import THRESHOLD
from trainable_quantizers_core.constants import TABLE
from trainable_quantizers_core.quantizer.grid import symmetric_range
from trainable_quantizers_core.quantizer.specification import elements_per_sample

from trainable_quantizers_torch.kernels.table import effective_table, effective_threshold, look_up
from trainable_quantizers_torch.quantizer.base_quantizer import whole
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer


class PytorchTableQuantizer(PytorchRangeQuantizer):
    """A quantizer whose threshold and table are parameters of a module."""

    def _quantized(self, inputs: torch.Tensor) -> torch.Tensor:
        spec, threshold = self.specification, self._threshold()
        self._check_channels(inputs, threshold)
        is_weight = type(self).quantization_target is QuantizationTarget.Weights
        scales = (
            spec.lsq_factor(self._shared_by(inputs)),
            spec.lsq_factor(inputs.numel() if is_weight else elements_per_sample(inputs.shape)),
        )
        grid = spec.levels
        levels = effective_table(whole(self._current(TABLE)), grid)
        return look_up(inputs, threshold, levels, grid, self.channel_axis, *scales)

    def _threshold(self) -> torch.Tensor:
        threshold = self.shaped(whole(self._current(THRESHOLD)))
        return effective_threshold(threshold, *self._threshold_rule())

    def effective_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest and the highest value that an entry of the table can stand for."""
        return symmetric_range(self._threshold(), self.specification.levels)

    def step(self) -> torch.Tensor:
        """Δ, of which entries are multiples, of shape () or (channels,); nothing learns through it."""
        return self._threshold().detach() / self.specification.levels.steps_per_threshold
