"""Takes a PyTorch network through all steps: prepare, train a step, convert, verify and export."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch_zoo import Network, networks
from trainable_quantizers_core.graph.summary import Summary
from trainable_quantizers_torch import Recipe, convert, export, prepare, summary, verify

FILE = ".pt2"

NOTES = ""

__all__ = ["FILE", "NOTES", "all_the_way", "networks"]


def all_the_way(network: Network, recipe: str) -> tuple[Summary, bool, bool, float]:
    """The summary, whether the converted model and the file are identical, and the seconds to prepare."""
    torch.manual_seed(0)
    build, inputs = network
    model = build().eval()
    start = time.perf_counter()
    prepared = prepare(model, Recipe.preset(recipe), [inputs], fold_batch_norm=True, verbose=False)
    seconds = time.perf_counter() - start
    _step(prepared, inputs)
    deployed = convert(prepared.eval())
    identical = verify(prepared, deployed, [inputs]).identical
    with tempfile.TemporaryDirectory() as folder:
        exported = export(deployed, Path(folder) / "model.pt2", inputs, sizes="fixed")
    return summary(prepared), identical, exported.identical, seconds


def _step(model: torch.nn.Module, inputs: Any) -> None:
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-4)
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    _first(output).float().square().mean().backward()
    optimizer.step()


def _first(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    return _first(next(iter(output.values())) if isinstance(output, dict) else output[0])
