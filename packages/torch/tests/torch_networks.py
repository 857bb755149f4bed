"""Networks of many kinds for the tests of whole models: a class, and inputs for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)  # every process has the same inputs


class Residual(nn.Module):
    """Functional activations, a sum, batch norms and functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(x)) + x)
        return self.head(F.dropout(y, 0.1, training=self.training).mean((2, 3)))


class Inverted(nn.Module):
    """The block of MobileNet v2, twice, and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(16, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(4, 4, 2, groups=2)

    def forward(self, x):
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.up(self.grouped(x)).flatten(1)


class Shared(nn.Module):
    """A layer used twice, an embedding, a concatenation, three inputs of which one holds integers."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.words = nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(10, 4)

    def forward(self, x, y, tokens):
        z = torch.cat([self.twice(x), self.once(y), self.twice(y), self.words(tokens)], 1)
        return z.view(z.size(0), -1) * 2


class Tied(nn.Module):
    """Two layers of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.words(tokens)))


class Own(nn.Module):
    """A layer that no library knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return x @ self.weight.t()


class WithOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.head = Own(), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.own(x)))


class LikeFunctions(nn.Module):
    """A layer that is called what the graph calls a function, and layers in layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Tanh()), nn.Linear(4, 4))
        self.relu_1, self.head = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.relu_1(F.relu(-torch.relu(self.body(x)).exp())))


class ReadDirectly(nn.Module):
    """A weight that a function reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        return F.linear(self.body(self.words(tokens)), self.words.weight)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.LSTMCell(4, 4), nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        state, memory = self.first(x)
        return self.head(self.second(state) + memory)


class Recurrent(nn.Module):
    """Layers and directions; a state that is used."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.head = nn.GRU(16, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        sequence, _ = self.lstm(x)
        sequence, state = self.gru(sequence)
        return self.head(sequence[:, -1] + state[0])


class Attentive(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.attention, self.norm, self.head = (
            nn.MultiheadAttention(8, 2, batch_first=True, **options),
            nn.LayerNorm(8),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]))


class Optional(nn.Module):
    """Arguments that need not be given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, mask=None, scale=1.0, *, twice=False):
        x = self.first(x)
        if mask is not None:
            x = x * mask
        if twice:
            x = x + x
        return self.last(torch.relu(x)) * scale


class Branching(nn.Module):
    """Control flow that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.body(x * 2 if x.sum() > 0 else x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=8, vdim=6, batch_first=True)
        self.values = nn.Linear(8, 6)

    def forward(self, tokens):
        x = self.encoder(self.words(tokens))
        return self.other(x, x, self.values(x))[0]


class ReadsAttributes(nn.Module):
    """Cannot be traced, and looks at its layers; sequences with batch norms and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.ReLU())
        self.alone = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4))
        self.head, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        x = self.alone(self.body(x if x.sum() > 0 else -x)).mean((2, 3)).to(self.head.weight.dtype)
        return self.norm(self.head(x) * self.head.out_features) + self.norm.eps


class DropPath(nn.Module):
    """Drops whole samples while it trains, as stochastic depth does."""

    def forward(self, x):
        if not self.training:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(0.8)
        return x * kept / 0.8


class Stochastic(nn.Module):
    """Blocks that training runs otherwise: a drop path, a scale, and a layer that is left out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.scale, self.drop, self.head = nn.Parameter(torch.rand(8)), DropPath(), nn.Linear(8, 2)

    def forward(self, x):
        for index, block in enumerate(self.blocks):
            if self.training and index == 1 and torch.rand(()) < -1:
                continue
            x = x + self.drop(F.silu(block(x)) * self.scale)
        return self.head(x)


class NormAct(nn.BatchNorm2d):
    """A norm with an activation function inside."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class StandardConv(nn.Conv2d):
    """A convolution that standardizes its weight."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias)


class OwnLayers(nn.Module):
    """Layers of classes that change what their bases compute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = StandardConv(3, 4, 3), nn.BatchNorm2d(4)
        self.plain, self.act = nn.Conv2d(4, 4, 1, bias=False), NormAct(4)

    def forward(self, x):
        return self.act(self.plain(self.norm(self.conv(x)))).mean((2, 3))


class Unit(nn.Module):
    activation = nn.SiLU()  # one object for all

    def __init__(self, inputs: int, outputs: int, size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(outputs), self.activation

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Detecting(nn.Module):
    """As YOLO is written: chunks in a list, shared activation functions, heads, other results in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.join = Unit(3, 8), nn.ModuleList([Unit(4, 4, 3)]), Unit(12, 8)
        self.heads = nn.ModuleList([nn.Conv2d(8, 6, 1) for _ in range(2)])

    def forward(self, image):
        parts = list(self.stem(image).chunk(2, 1))
        parts.extend(inner(parts[-1]) for inner in self.inner)
        x = self.join(torch.cat(parts, 1))
        found = [head(each).flatten(2) for head, each in zip(self.heads, (x, F.max_pool2d(x, 2)), strict=True)]
        boxes, classes = torch.cat(found, 2).split((4, 2), 1)
        return torch.cat([boxes, classes.sigmoid()], 1)


class Asking(nn.Module):
    """Asks what its layers are, and takes any number of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.bias = (
            nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)]),
            nn.Parameter(torch.zeros(4)),
        )

    def forward(self, *inputs):
        x = sum(inputs, self.bias)
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                x = torch.relu(x) + 1
        return x


def language_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=32, vocab_size=50, max_position_embeddings=32))


def vision_transformer() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=3))


NETWORKS = {
    "residual": (Residual, (torch.randn(4, 3, 8, 8),)),
    "inverted": (Inverted, (torch.randn(2, 4, 6, 6),)),
    "shared": (Shared, (torch.randn(5, 4), torch.randn(5, 4), torch.randint(0, 10, (5,)))),
    "tied": (Tied, (torch.randint(0, 10, (5,)),)),
    "own layer": (WithOwn, (torch.randn(5, 4),)),
    "like functions": (LikeFunctions, (torch.randn(3, 4),)),
    "read directly": (ReadDirectly, (torch.randint(0, 10, (20,)),)),
    "cells": (Cells, (torch.randn(3, 4),)),
    "recurrent": (Recurrent, (torch.randn(3, 5, 4),)),
    "attention": (Attentive, (torch.randn(3, 5, 8),)),
    "encoder": (Encoder, (torch.randint(0, 10, (2, 5)),)),
    "reads attributes": (ReadsAttributes, (torch.randn(3, 3, 8, 8),)),
    "optional": (Optional, (torch.randn(3, 4),)),
    "optional given": (Optional, {"x": torch.randn(3, 4), "mask": torch.rand(3, 4)}),
    "branching": (Branching, (torch.randn(3, 8),)),
    "stochastic": (Stochastic, (torch.randn(5, 8),)),
    "own layers": (OwnLayers, (torch.randn(4, 3, 8, 8),)),
    "detecting": (Detecting, (torch.rand(3, 3, 8, 8),)),
    "asking": (Asking, (torch.randn(5, 4), torch.randn(5, 4))),
    "language model": (language_model, {"input_ids": torch.randint(0, 50, (2, 7))}),
    "vision transformer": (vision_transformer, {"pixel_values": torch.randn(2, 3, 16, 16)}),
}


def call(model: nn.Module, inputs) -> torch.Tensor:
    output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return getattr(output, "logits", output)
