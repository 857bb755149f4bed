"""Measures the accuracy that a limit on the accumulators costs, on the digits; see docs/exact.md.

Run it by ``python3 tools/dev.py accumulators``; three seeds, a few minutes.
"""

from __future__ import annotations

import numpy as np
import torch
import trainable_quantizers_torch as tq
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

LIMITS = (None, 16, 14, 12)
WIDTHS = ((8, 8), (4, 4))
SEEDS = range(3)


def network() -> nn.Module:
    """Two convolutions, a depthwise one and a linear layer."""
    first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU()]
    then = [nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 9, 10)]
    return nn.Sequential(*first, *then)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float) -> None:
    """Adam with batches of 64."""
    optimizer = torch.optim.Adam(model.train().parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """In percent."""
    return 100 * (model.eval()(images).argmax(1) == labels).double().mean().item()


def main() -> None:
    """Print a table: accuracy before and after training, for each limit and width."""
    data = load_digits()
    images = torch.from_numpy((data.images[:, None] / 16).astype("float32"))
    parts = train_test_split(images, torch.from_numpy(data.target), test_size=0.4, random_state=0)
    (x, test_x), (y, test_y) = parts[:2], parts[2:]
    found: dict[tuple[int, int, int | None], list[tuple[float, float, int]]] = {}
    for seed in SEEDS:
        torch.manual_seed(seed)
        float_model = network()
        train(float_model, x, y, 15, 2e-3)
        print(f"seed {seed}: float {accuracy(float_model, test_x, test_y):.2f} %", flush=True)
        for weights, activations in WIDTHS:
            for limit in LIMITS:
                scheme = tq.WeightsScheme(num_bits=weights, accumulator_bits=limit)
                recipe = tq.Recipe(scheme, tq.ActivationsScheme(num_bits=activations))
                model = tq.prepare(float_model, recipe, x.split(64)[:8], verbose=False)
                before = accuracy(model, test_x, test_y)
                train(model, x, y, 5, 5e-4)
                deployed = tq.convert(model)
                needed = max(each.worst for each in tq.to_integer(deployed, test_x[:1]).accumulators())
                row = (before, accuracy(deployed, test_x, test_y), needed)
                found.setdefault((weights, activations, limit), []).append(row)
    print("| | limit | bits needed | before training | trained |\n|---|---|---|---|---|")
    for (weights, activations, limit), rows in found.items():
        before, after, needed = np.array(rows).T
        spread = f"{after.mean():.1f} ({after.min():.1f} to {after.max():.1f})"
        print(f"| W{weights}A{activations} | {limit or 'none'} | {needed.max():.0f} | {before.mean():.1f} | {spread} |")


if __name__ == "__main__":
    main()
