"""From a float CNN to a deployed quantized one in PyTorch: ``python docs/examples/digits_torch.py --help``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import trainable_quantizers_torch as tq
from digits import Result, load_data, options, recipe
from rich.progress import track
from torch import nn


def build() -> nn.Sequential:
    """A float network of three layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float, text: str) -> None:
    """Adam with a cosine schedule; the quantizers' parameters are parameters like any other."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in track(range(epochs), text):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Logits in evaluation mode."""
    return model.eval()(images).numpy()


def main() -> None:
    """Float training, quantization, training, deployment, comparison."""
    args = options()
    torch.manual_seed(args.seed)
    train_x, test_x, train_y, test_y = load_data(args.seed)
    train_x, test_x = torch.tensor(train_x)[:, None], torch.tensor(test_x)[:, None]

    model = build()
    train(model, train_x, torch.tensor(train_y), args.float_epochs, 3e-3, "Training in float")
    float_logits = predict(model, test_x)
    sizes = [layer.weight.numel() for layer in model if hasattr(layer, "weight")]

    model = tq.prepare(model, recipe(args), train_x, verbose=False)
    before = predict(model, test_x)
    train(model, train_x, torch.tensor(train_y), args.epochs, 2e-3, "Training quantized")
    after = predict(model, test_x)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deployed.pt"
        torch.save(tq.convert(model), path)
        deployed = predict(torch.load(path, weights_only=False), test_x)
    title = f"PyTorch, {args.method} {args.quantization}, W{args.weight_bits}A{args.activation_bits}"
    bits = sum(sizes) * 32, sum(sizes) * args.weight_bits
    Result(test_y, float_logits, before, after, deployed, *bits).show(title)


if __name__ == "__main__":
    main()
