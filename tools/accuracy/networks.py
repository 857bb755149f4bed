"""The networks of the accuracy page, with a few thousand weights each, for images and for series."""

from __future__ import annotations

from collections.abc import Callable

import torch
from data import Data
from torch import nn


class Read(nn.Identity):
    """Quantizes values that later operations read and that no activation function gives.

    Brevitas needs these places in the model; ours and the toolkit find them and some more.
    """


def convolution(given: int, wanted: int, shape: tuple[int, ...], stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 on images, 1x5 on series, which have a height of 1."""
    if shape[1] == 1:
        return nn.Conv2d(given, wanted, (1, 5), (1, stride), (0, 2), groups=groups, bias=False)
    return nn.Conv2d(given, wanted, 3, stride, 1, groups=groups, bias=False)


def normed(layer: nn.Conv2d) -> list[nn.Module]:
    """A convolution with its batch norm and ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]


def plain(data: Data) -> nn.Module:
    """Three convolutions without norms, the second and third with a stride of 2, and a linear layer."""
    channels, height, width = data.shape
    layers: list[nn.Module] = [Read()]
    for given, wanted, stride in ((channels, 16, 1 if width < 20 else 2), (16, 32, 2), (32, 32, 2)):
        layer = convolution(given, wanted, data.shape, stride)
        layer.bias = nn.Parameter(torch.zeros(wanted))
        layers += [layer, nn.ReLU()]
    with torch.no_grad():
        features = nn.Sequential(*layers)(torch.zeros(1, channels, height, width)).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, data.classes), Read())


def depthwise(data: Data) -> nn.Module:
    """MobileNet in small: depthwise convolutions between those of 1x1, each with batch norm and ReLU."""
    channels, _, width = data.shape
    layers = [Read(), *normed(convolution(channels, 16, data.shape, 1 if width < 20 else 2))]
    for given, wanted, stride in ((16, 32, 2), (32, 48, 1), (48, 64, 2)):
        layers += normed(convolution(given, given, data.shape, stride, groups=given))
        layers += normed(nn.Conv2d(given, wanted, 1, bias=False))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), Read(), nn.Flatten(), nn.Linear(64, data.classes), Read())


class Block(nn.Module):
    """Attention of one head and a perceptron, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.relu, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        self.read_normed, self.read_query, self.read_key, self.read_value = Read(), Read(), Read(), Read()
        self.read_products, self.read_scores = Read(), Read()
        self.softmax, self.read_weights, self.read_mixed = nn.Softmax(-1), Read(), Read()
        self.read_out, self.read_sum, self.read_normed_again, self.read_down, self.read_result = (
            Read() for _ in range(5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of shape (batch, tokens, width)."""
        y = self.read_normed(self.attention_norm(x))
        query, key, value = (
            read(layer(y))
            for layer, read in (
                (self.query, self.read_query),
                (self.key, self.read_key),
                (self.value, self.read_value),
            )
        )
        products = self.read_products(torch.matmul(query, key.transpose(-1, -2)))
        scores = self.read_scores(products * self.scale)
        mixed = torch.matmul(self.read_weights(self.softmax(scores)), value)
        x = self.read_sum(x + self.read_out(self.out(self.read_mixed(mixed))))
        y = self.relu(self.up(self.read_normed_again(self.perceptron_norm(x))))
        return self.read_result(x + self.read_down(self.down(y)))


class Transformer(nn.Module):
    """A block of width 32 on the rows of an image, or on the steps of a series."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        channels, height, width = data.shape
        tokens, features = (height, channels * width) if height > 1 else (width, channels)
        self.by_row = height > 1
        self.read, self.embed, self.read_embedded = Read(), nn.Linear(features, 32), Read()
        self.position = nn.Parameter(torch.randn(1, tokens, 32) * 0.1)
        self.read_position, self.read_sum, self.blocks = Read(), Read(), nn.Sequential(Block(32))
        self.norm, self.read_normed, self.read_mean = nn.LayerNorm(32), Read(), Read()
        self.classes, self.read_classes = nn.Linear(32, data.classes), Read()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of shape (batch, channels, height, width)."""
        x = self.read(x)
        tokens = (x.transpose(1, 2) if self.by_row else x.permute(0, 3, 1, 2)).flatten(2)
        embedded = self.read_embedded(self.embed(tokens))
        y = self.blocks(self.read_sum(embedded + self.read_position(self.position)))
        return self.read_classes(self.classes(self.read_mean(self.read_normed(self.norm(y)).mean(1))))


def transformer(data: Data) -> nn.Module:
    """A block of width 32."""
    return Transformer(data)


NETWORKS: dict[str, Callable[[Data], nn.Module]] = {"plain": plain, "depthwise": depthwise, "transformer": transformer}
