"""The training loop of the accuracy page: the same budget for every tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from data import Data
from torch import nn
from torch.nn.functional import cross_entropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Budget:
    """Steps of Adam, whose rate falls from ``rate`` to zero, on batches of 128."""

    steps: int
    rate: float
    batch: int = 128

    def batches(self, data: Data, seed: int) -> Iterator[torch.Tensor]:
        """The samples of each step: the same for every tool."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.empty(0, dtype=torch.int64)
        for _ in range(self.steps):
            if len(rows) < self.batch:
                rows = torch.randperm(len(data.y), generator=generator)
            yield rows[: self.batch]
            rows = rows[self.batch :]


def train(
    model: nn.Module,
    data: Data,
    budget: Budget,
    seed: int,
    loss: Loss | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Minimize the cross entropy, or ``loss`` of samples and classes."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], budget.rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    model.train()
    for rows in budget.batches(data, seed):
        optimizer.zero_grad()
        x, y = data.x[rows], data.y[rows]
        (cross_entropy(model(x), y) if loss is None else loss(x, y)).backward()
        optimizer.step()
        decay.step()
        if after_step:
            after_step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Percent of the samples to test."""
    found = torch.cat([model(part).argmax(1) for part in data.test_x.split(250)])
    return 100 * (found == data.test_y).double().mean().item()
