"""Whether memory stays flat and time linear: deep models, many conversions, long training.

``python3 tools/dev.py endurance --layers 500 --cycles 10000 --steps 20000``. Each trial prints, for equal parts of it,
seconds and resident memory.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
import trainable_quantizers_torch as tq
from torch import nn

PARTS = 5
SCHEME = {"num_bits": 4}
RECIPE = tq.Recipe.from_dict({"weights": SCHEME, "activations": SCHEME})


def chain(layers: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    return nn.Sequential(*(layer for _ in range(layers) for layer in (nn.Linear(8, 8), nn.ReLU())))


def resident() -> float:
    """Memory that the process holds, MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def deep(layers: int) -> None:
    """Prepare, train one step, convert: from a fifth of the layers to all of them."""
    for part in range(1, PARTS + 1):
        count, begin, x = layers * part // PARTS, time.perf_counter(), torch.randn(4, 8)
        model = tq.prepare(chain(count), RECIPE, [x], verbose=False)
        model(x).sum().backward()
        tq.convert(model.eval())
        print(f"  {count:6} layers  {time.perf_counter() - begin:8.1f} s  {resident():8.0f} MiB", flush=True)


def repeated(title: str, count: int, once: Callable[[], object]) -> None:
    """The same thing many times, in equal parts, after a few times for warming up."""
    for _ in range(10):
        once()
    for part in range(1, PARTS + 1):
        begin = time.perf_counter()
        for _ in range(count // PARTS):
            once()
        seconds = time.perf_counter() - begin
        print(f"  {count * part // PARTS:6} {title}  {seconds:8.1f} s  {resident():8.0f} MiB", flush=True)


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    x, network = torch.randn(16, 8), chain(2)
    print("prepare, train one step, convert, by depth")
    deep(chosen.layers)
    print("prepare and convert")
    repeated("cycles", chosen.cycles, lambda: tq.convert(tq.prepare(network, RECIPE, [x], verbose=False)))
    print("training with a schedule")
    scheme = {**SCHEME, "schedule": {"start": 10, "ramp": 100, "learn_from": 10}}
    recipe = tq.Recipe.from_dict({"weights": scheme, "activations": scheme})
    model = tq.prepare(network, recipe, [x], verbose=False)
    optimizer = torch.optim.Adam(tq.parameter_groups(model), lr=1e-3)
    tq.follow_optimizer(model, optimizer)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    repeated("steps", chosen.steps, step)


if __name__ == "__main__":
    main()
