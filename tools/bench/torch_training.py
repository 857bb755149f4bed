"""Benchmarks whole training steps in PyTorch, float against quantized: a MobileNet and a small transformer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import trainable_quantizers_torch as tq
from timing import Result, compare
from torch import nn
from trainable_quantizers_torch.kernels.limits import limited
from training_cases import BIASES, STAGES


def separable(channels: int, out: int, stride: int) -> list[nn.Module]:
    """A depthwise convolution and one of 1x1, each with batch norm and ReLU6."""
    depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [
        *(depthwise, nn.BatchNorm2d(channels), nn.ReLU6()),
        *(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU6()),
    ]


def mobilenet() -> nn.Module:
    """MobileNet v1 of full width, on images of 96x96."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    channels = 32
    for out, stride in STAGES:
        layers += separable(channels, out, stride)
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Block(nn.Module):
    """Attention and a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width) for _ in range(4))
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of shape (batch, tokens, width)."""
        y = self.norms[0](x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norms[1](x))


def transformer() -> nn.Module:
    """Four blocks of width 192 on 64 tokens."""
    return nn.Sequential(nn.Linear(48, 192), *(Block(192, 4) for _ in range(4)), nn.Flatten(), nn.Linear(64 * 192, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MobileNet-like": (mobilenet, (16, 3, 96, 96)),
    "transformer-like": (transformer, (16, 64, 48)),
}
RECIPE = tq.Recipe(
    weights=tq.WeightsScheme(num_bits=4), activations=tq.ActivationsScheme(num_bits=8), name="W4A8 LSQ power of two"
)


def models(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The float network, the quantized one, and a batch."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, x = build(), torch.randn(shape)
    return network, tq.prepare(copy.deepcopy(network), RECIPE, [x], verbose=False), x


def training_step(model: nn.Module, x: torch.Tensor, compiled: bool = False) -> Callable[[], None]:
    """Forward, backward and an update by SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    target = torch.arange(len(x)) % 10
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(x), target).backward()
        optimizer.step()

    return step


def run_steps(name: str, kind: str) -> None:
    """Run three steps of the float or the quantized network, or none, to measure the peak memory of a process."""
    build, shape = NETWORKS[name]
    network, x = build(), torch.randn(shape)
    if kind == "quantized":
        network = tq.prepare(network, RECIPE, [x[:1]], verbose=False)
    step = training_step(network, x)
    for _ in range(0 if kind == "none" else 3):
        step()


def depth(layers: int) -> dict[str, float]:
    """Seconds to prepare and to convert a network with ``layers`` linear layers."""
    network = nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(16, 16), nn.ReLU())))
    start = time.perf_counter()
    prepared = tq.prepare(network, RECIPE, [torch.randn(8, 16)], verbose=False)
    middle = time.perf_counter()
    tq.convert(prepared)
    return {"prepare": round(middle - start, 3), "convert": round(time.perf_counter() - middle, 3)}


def with_biases(compiled: bool) -> dict[str, Callable[[], None]]:
    """Steps of a MobileNet with folded norms: the cost of its bias grid, and of a limit on its sums."""
    build, shape = NETWORKS["MobileNet-like"]
    torch.manual_seed(0)
    network, x, steps = build().eval(), torch.randn(shape), {}
    for title, options in BIASES.items():
        recipe = tq.Recipe(tq.WeightsScheme(num_bits=4, **options), RECIPE.activations)
        model = tq.prepare(network, recipe, [x], fold_batch_norm=True, verbose=False).train()
        steps[title] = training_step(model, x, compiled)
    return steps


def run(threads: int, quick: bool) -> dict[str, Result]:
    """Run every benchmark of this group; returns its tables."""
    torch.set_num_threads(threads)
    results = {}
    for name in NETWORKS:
        float_model, quantized, x = models(name)
        step = training_step(quantized, x)

        def without_numba(step: Callable[[], None] = step) -> None:
            with limited(numba=False):
                step()

        cases = {"float": training_step(float_model, x), "W4A8 LSQ": step, "W4A8 LSQ without numba": without_numba}
        results[f"{name} training step, eager"] = compare(cases, 1.0 if quick else 20.0)
        if not quick:
            compiled = {
                "float": training_step(float_model, x, compiled=True),
                "W4A8 LSQ": training_step(quantized, x, compiled=True),
            }
            results[f"{name} training step, compiled"] = compare(compiled, 20.0)
    results["MobileNet-like training step, biases, eager"] = compare(with_biases(False), 1.0 if quick else 20.0)
    if not quick:
        results["MobileNet-like training step, biases, compiled"] = compare(with_biases(True), 20.0)
    return results
