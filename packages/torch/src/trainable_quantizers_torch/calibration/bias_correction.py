"""Bias correction: runs the float and the quantized model side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from trainable_quantizers_core.calibration.bias_correction import BiasCorrection

from trainable_quantizers_torch.calibration.batches import modes_kept, run_on
from trainable_quantizers_torch.calibration.ranks import averaged
from trainable_quantizers_torch.graph.apply import Placed


def correct_biases(
    reference: Placed, placed: Placed, positions: Sequence[int], batches: Sequence[Any], process_group: Any = None
) -> None:
    """Shift the biases of a quantized model, in place.

    Args:
        reference: The float model, in a copy of its own.
        placed: The same model with its quantizers.
        positions: Operations whose layers have a bias to correct.
        batches: Data.
        process_group: Processes whose corrections are averaged.
    """
    corrections = {position: BiasCorrection() for position in positions}
    axes = {position: _channel_axis(placed, position) for position in positions}
    same = {at: nn.Identity() for at in placed.holders}  # as PyTorch uses other kernels for layers without hooks
    reference.watch({**same, **{at: _Channels(axes[at], each.expect) for at, each in corrections.items()}})
    placed.watch({at: _Channels(axes[at], each.shift) for at, each in corrections.items()})
    with torch.no_grad():
        with modes_kept(placed.model):
            placed.model.eval()
            for call, _ in run_on(reference.model, batches, "prepare", "calibration_data"):
                call(placed.model)
        placed.leave()
        for position, correction in corrections.items():
            wrapper = placed.modules[placed.recorded.graph[position].layer]
            bias = wrapper.layer.bias  # the wrapper shows the rounded one
            shift = torch.from_numpy(averaged(correction.mean_shift, process_group)).to(bias)
            if wrapper.folded_norm is None:
                bias.add_(shift)
            else:
                wrapper.folded_norm.shift(shift)


def _channel_axis(placed: Placed, position: int) -> int:
    """The channel axis of the result: convolutions have their spatial axes behind it."""
    (_, weight, _), *_ = placed.recorded.nodes[position].weights.values()
    return 1 - weight.ndim if "conv" in placed.recorded.graph[position].kind else -1


class _Channels(nn.Module):
    """Reports the mean of each channel, and adds the returned shift."""

    def __init__(self, axis: int, tell: Callable[[np.ndarray], np.ndarray | None]) -> None:
        super().__init__()
        self.axis, self.tell = axis, tell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, shifted."""
        rows = x.movedim(self.axis, -1).reshape(-1, x.shape[self.axis])
        shift = self.tell(rows.double().mean(0).cpu().numpy())
        if shift is None:
            return x
        return x + torch.from_numpy(shift).to(x).reshape([-1] + [1] * (-1 - self.axis))
