"""Linear annealing in PyTorch."""

from __future__ import annotations

import torch
from trainable_quantizers_core import BaseLinearAnnealingScheduler


class PytorchLinearAnnealingScheduler(BaseLinearAnnealingScheduler):
    """Linear annealing of a 0-d tensor.

    Examples:
        >>> PytorchLinearAnnealingScheduler(t_start=10, t_end=20, initial_val=0.0, target_val=1.0)(15)
        tensor(0.5000)
    """

    def _compute_factor(self, t: int | torch.Tensor) -> torch.Tensor:
        elapsed = torch.as_tensor(t, dtype=torch.float32) - self.t_start
        return (elapsed / (self.t_end - self.t_start)).clamp(0.0, 1.0)
