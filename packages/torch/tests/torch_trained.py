"""A network with a bias in every layer, trained some steps: for tests of exactness."""

from __future__ import annotations

from functools import cache

import torch
import trainable_quantizers_torch as tq
from torch import nn


class Residual(nn.Module):
    """Each kind of layer with a bias, norms that fold, a sum, and a layer that is called on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, groups=4)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.wide(torch.relu(self.depthwise(x))))
        x = torch.relu(self.up(x)).mean((2, 3))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


POWERS = "power_of_two"


@cache
def trained(
    bits: int = 8, rounding: str | None = None, methods: tuple[str, str] = (POWERS, POWERS), **options: object
) -> nn.Module:
    torch.manual_seed(0)
    network, x = Residual(), torch.randn(16, 3, 12, 12) * 2 + 1
    network(x)
    weights, activations = methods
    recipe = tq.Recipe(
        tq.WeightsScheme(num_bits=bits, method=weights, **options),
        tq.ActivationsScheme(num_bits=8, method=activations, rounding=rounding),
    )
    model = tq.prepare(network.eval(), recipe, [x], fold_batch_norm=True, verbose=False).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(16) % 10).backward()
        optimizer.step()
    return model.eval()


IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(3))
