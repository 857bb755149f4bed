"""A batch norm as a part of the layer before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from trainable_quantizers_core.graph.folding import factor_of, folded_bias, inverse_of


class FoldedNorm:
    """The weight and bias that a batch norm gives the layer before it, and whether the norm still normalizes.

    While the norm is in training, the layer computes with the weight w·s, takes s back from its result, and the norm
    normalizes that by the batch. Otherwise the layer has the folded bias, and the call of the norm gives its input.

    Args:
        module: The norm; it stays where it is in the model. It normalizes no more while ``closed``.

    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2.

    Examples:
        >>> norm, layer = FoldedNorm(nn.BatchNorm1d(2)), nn.Linear(1, 2)
        >>> norm.closed = False
        >>> norm.normalizes, norm.weight(layer).shape
        (True, torch.Size([2, 1]))
        >>> _ = norm.module.eval()
        >>> norm.normalizes
        False
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.closed = True
        self._held: torch.Tensor | None = None

    @property
    def normalizes(self) -> bool:
        """Whether the norm normalizes by its batch now."""
        return not self.closed and self.module.training

    def weight(self, layer: Any) -> torch.Tensor:
        """The layer's weight, with the factor of each output channel."""
        weight: torch.Tensor = layer.weight
        return (weight.double() * _along_outputs(self._factor(), layer)).to(weight.dtype)

    def bias(self, layer: Any) -> torch.Tensor:
        """The bias that takes in the norm."""
        beta, bias = (None if each.bias is None else each.bias.double() for each in (self.module, layer))
        mean = self.module.running_mean.double()
        return folded_bias(self._factor(), mean, beta, bias).to(layer.weight.dtype)

    def scaled_bias(self, layer: Any) -> torch.Tensor:
        """The bias in training: the layer's own, with the factor that ``apart`` takes back."""
        return (layer.bias.double() * self._factor()).to(layer.bias.dtype)

    def apart(self, result: torch.Tensor) -> torch.Tensor:
        """The input of the norm: the result of the layer without the factor."""
        inverse = inverse_of(self._factor(), torch.where).to(self.module.running_var.dtype)
        return result * inverse.reshape(1, -1, *[1] * (result.ndim - 2))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the factor inside the context, even if the statistics change."""
        self._held = self._factor().detach()
        try:
            yield
        finally:
            self._held = None

    @torch.no_grad()
    def shift(self, by: torch.Tensor) -> None:
        """Shift the folded bias through the running mean: a norm that normalizes corrects the mean itself."""
        mean = self.module.running_mean
        mean.sub_((by.double() * inverse_of(self._factor(), torch.where)).to(mean.dtype))

    def _factor(self) -> torch.Tensor:
        if self._held is not None:
            return self._held
        norm = self.module
        gamma = None if norm.weight is None else norm.weight.double()
        factor: torch.Tensor = factor_of(norm.running_var.double(), norm.eps, gamma, torch.sqrt)
        return factor


def _along_outputs(factor: torch.Tensor, layer: Any) -> torch.Tensor:
    """The factors of the output channels, in the shape of the layer's weight."""
    others = [1] * (layer.weight.ndim - 2)
    if not isinstance(layer, _ConvTransposeNd):
        return factor.reshape(-1, 1, *others)
    per_group = factor.reshape(layer.groups, 1, -1, *others)
    return per_group.expand(layer.groups, layer.weight.shape[0] // layer.groups, -1, *others).reshape(
        layer.weight.shape[0], -1, *others
    )
