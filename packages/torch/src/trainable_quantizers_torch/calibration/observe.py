"""Collects activation statistics where quantizers will stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from trainable_quantizers_core.calibration.observation import Observation


class Observer(nn.Module):
    """Passes a tensor on and keeps its statistics, in constant memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Observation()

    def forward(self, x: Any) -> Any:
        """``x`` itself."""
        floating = isinstance(x, torch.Tensor) and x.is_floating_point()
        self.seen.update(x.detach().float().cpu().numpy() if floating else None)
        return x
