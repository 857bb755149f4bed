"""Statistics of activations, gathered where quantizers will stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from trainable_quantizers_core import TensorStatistics
from trainable_quantizers_core.graph.placement import UNBOUNDED

from trainable_quantizers_torch.calibration.batches import run_on


class Observer(nn.Module):
    """Passes a tensor on and keeps its statistics, in constant memory."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = TensorStatistics()
        self.left_in_float = "calibration never reached it"

    def forward(self, x: Any) -> Any:
        """``x`` itself."""
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            self.statistics.update(x.detach().float().cpu().numpy())
            self.left_in_float = UNBOUNDED if self.statistics.unbounded else ""
        else:
            self.left_in_float = "not a floating tensor"
        return x


def calibrate(model: nn.Module, data: Any, verbose: bool) -> None:
    """Run the model on batches, in evaluation, for its observers to see.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty, or the model does not take one of its batches.
    """
    for _ in run_on(model, data, "prepare", "calibration_data", verbose):
        pass
