"""Configurations, quantizers and a network for the tests, in few words."""

from __future__ import annotations

from typing import Any

import torch
import trainable_quantizers_torch as tq
from torch import nn

Method = tq.QuantizationMethod
ALONE = "import sys; sys.modules['tensorflow'] = None\n"
"""First line of a program: a process as where TensorFlow is not installed, which starts in half the time."""


def weights_config(params: dict | None = None, **changes: Any) -> tq.TrainableQuantizerWeightsConfig:
    fields: dict[str, Any] = {
        "weights_quantization_method": Method.SYMMETRIC,
        "weights_n_bits": 4,
        "weights_quantization_params": params or {tq.THRESHOLD: 1.0},
        "enable_weights_quantization": True,
        "weights_channels_axis": 0,
        "weights_per_channel_threshold": True,
        "min_threshold": tq.MIN_THRESHOLD,
    }
    return tq.TrainableQuantizerWeightsConfig(**{**fields, **changes})


def activation_config(params: dict | None = None, **changes: Any) -> tq.TrainableQuantizerActivationConfig:
    fields: dict[str, Any] = {
        "activation_quantization_method": Method.SYMMETRIC,
        "activation_n_bits": 4,
        "activation_quantization_params": params or {tq.THRESHOLD: 1.0, tq.SIGNED: False},
        "enable_activation_quantization": True,
        "min_threshold": tq.MIN_THRESHOLD,
    }
    return tq.TrainableQuantizerActivationConfig(**{**fields, **changes})


def wrapped(layer: nn.Module, **changes: Any) -> tq.PytorchTrainableQuantizationWrapper:
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config(**changes))
    return tq.PytorchTrainableQuantizationWrapper(layer, {"weight": quantizer})


def holder(**changes: Any) -> tq.PytorchTrainableActivationQuantizationHolder:
    quantizer = tq.LSQSymmetricActivationTrainableQuantizer(activation_config(**changes))
    return tq.PytorchTrainableActivationQuantizationHolder(quantizer)


def network(seed: int = 0) -> nn.Sequential:
    """Nested, with a convolution, a depthwise and a transposed one, a linear layer and two holders."""
    torch.manual_seed(seed)
    return nn.Sequential(
        wrapped(nn.Conv2d(2, 4, 3, padding=1)),
        nn.ReLU(),
        holder(),
        nn.Sequential(wrapped(nn.Conv2d(4, 4, 3, groups=4)), nn.Sequential(nn.ReLU(), holder())),
        wrapped(nn.ConvTranspose2d(4, 3, 2), weights_channels_axis=1),
        nn.Flatten(),
        wrapped(nn.Linear(3 * 7 * 7, 5)),
    )


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, steps: int = 3, seed: int = 0) -> list[float]:
    """Losses of a few steps of SGD on seeded data."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images(seed + step)), torch.arange(6) % 5)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
