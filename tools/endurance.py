"""Tests that memory stays flat and time linear: deep models, many conversions, long training.

``python3 tools/dev.py endurance --layers 500 --cycles 10000 --steps 20000``, with PyTorch. ``--framework keras`` tries
deep models alone, without the step, and with tf-keras if ``TF_USE_LEGACY_KERAS=1``. Each trial prints, for equal parts
of it, seconds and resident memory.
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


def in_torch(layers: int) -> float:
    """Prepare, train one step, convert; the seconds of prepare."""
    begin, x = time.perf_counter(), torch.randn(4, 8)
    model = tq.prepare(chain(layers), RECIPE, [x], verbose=False)
    seconds = time.perf_counter() - begin
    model(x).sum().backward()
    tq.convert(model.eval())
    return seconds


def in_keras(layers: int) -> float:
    """The same for a functional model, without the step: TensorFlow takes minutes to trace a deep one."""
    import trainable_quantizers_keras as tqk
    from trainable_quantizers_keras.keras_version import keras

    keras.backend.clear_session()
    inputs = x = keras.Input((8,))
    for _ in range(layers):
        x = keras.layers.Dense(8, "relu")(x)
    rows = torch.randn(4, 8).numpy()
    begin = time.perf_counter()
    model = tqk.prepare(keras.Model(inputs, x), RECIPE, [rows], verbose=False)
    seconds = time.perf_counter() - begin
    tqk.convert(model)
    return seconds


def deep(layers: int, whole: Callable[[int], float]) -> None:
    """From a fifth of the layers to all of them."""
    for part in range(1, PARTS + 1):
        count, begin = layers * part // PARTS, time.perf_counter()
        prepared = whole(count)
        seconds = time.perf_counter() - begin
        print(f"  {count:6} layers  {prepared:6.1f} of {seconds:6.1f} s  {resident():8.0f} MiB", flush=True)


def repeated(title: str, count: int, once: Callable[[], object]) -> None:
    """Repeat an action many times, in equal parts, after a few times for warming up."""
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
    parser.add_argument("--framework", choices=["torch", "keras"], default="torch")
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print("prepare, and the whole way, by depth")
    deep(chosen.layers, {"torch": in_torch, "keras": in_keras}[chosen.framework])
    if chosen.framework == "keras":
        return
    x, network = torch.randn(16, 8), chain(2)
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
