"""Cross-layer equalization: channels scaled from one layer into the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from trainable_quantizers_core.graph.equalization import ScaledWeight, equalizable, equalize

from trainable_quantizers_torch.graph.build import RecordedGraph


def equalize_layers(model: nn.Module, recorded: RecordedGraph) -> dict[str, str]:
    """Equalize the weights of layers that follow each other, in place; paths of each and of the next.

    Exact in float: see ``equalize``.
    """
    pairs = equalizable(recorded.graph)
    layers = {at: model.get_submodule(recorded.nodes[at].layer) for pair in pairs for at in pair}
    weights = {at: _scaled(layer) for at, layer in layers.items()}
    equalize(weights, pairs)
    for at, layer in layers.items():
        _scale(layer, weights[at])
    return {recorded.nodes[first].layer: recorded.nodes[second].layer for first, second in pairs}


def _scaled(layer: Any) -> ScaledWeight:
    outputs, inputs, *_ = layer.weight.shape
    magnitudes = layer.weight.detach().double().abs().reshape(outputs, inputs, -1).amax(2)
    return ScaledWeight(magnitudes.T.cpu().numpy(), getattr(layer, "groups", 1))


@torch.no_grad()
def _scale(layer: Any, scaled: ScaledWeight) -> None:
    factors = torch.from_numpy(scaled.factors.T.copy()).to(layer.weight)
    layer.weight.mul_(factors.reshape(*factors.shape, *[1] * (layer.weight.ndim - 2)))
    if layer.bias is not None:
        layer.bias.mul_(torch.from_numpy(scaled.bias_factors).to(layer.bias))
