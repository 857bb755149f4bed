"""Statistics of activations, gathered where quantizers will stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from trainable_quantizers_core import TensorStatistics
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.progress import track

from trainable_quantizers_torch.trace import arguments_of


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
            self.left_in_float = ""
        else:
            self.left_in_float = "not a floating tensor"
        return x


@torch.no_grad()
def calibrate(model: nn.Module, data: Any, verbose: bool) -> None:
    """Run the model on batches, in evaluation, for its observers to see.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty.
    """
    if isinstance(data, (torch.Tensor, dict)):
        data = [data]
    if not isinstance(data, Iterable):
        advice = "pass a DataLoader or a list of batches: thresholds of activations are set from data"
        raise invalid("prepare", "calibration_data", "an iterable of batches", data, advice)
    was_training, count = model.training, 0
    model.eval()
    try:
        for batch in track(data, "calibrating", verbose):
            positional, keywords = arguments_of(model, batch)
            model(*positional, **keywords)
            count += 1
    finally:
        model.train(was_training)
    if not count:
        advice = "an iterator that was used before is empty: pass a list or a DataLoader"
        raise invalid("prepare", "calibration_data", "at least one batch", data, advice)
