"""Folds batch norms into the layers before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainable_quantizers_torch.graph.build import RecordedGraph
from trainable_quantizers_torch.graph.kinds import is_standard
from trainable_quantizers_torch.layers.norm import FoldedNorm
from trainable_quantizers_torch.layers.wrapper import become


@dataclass
class Fold:
    """A batch norm that was folded.

    Args:
        path: Of the layer that it is a part of.
        layer: That layer.
        norm: The norm with its statistics.
        weight: The layer's weight before folding.
        bias: Its bias before folding, or None.
    """

    path: str
    layer: Any
    norm: FoldedNorm
    weight: torch.Tensor
    bias: torch.Tensor | None

    @torch.no_grad()
    def open(self) -> None:
        """Let the norm normalize until conversion: the layer has its own weight, and the bias 0 if it had none."""
        self.layer.weight.copy_(self.weight)
        self.layer.bias.copy_(0 if self.bias is None else self.bias)
        self.layer.bias.requires_grad_(self.layer.bias.requires_grad and self.bias is not None)
        self.norm.closed = False


def fold_batch_norms(model: nn.Module, recorded: RecordedGraph) -> dict[str, Fold]:
    """Fold, in place, each batch norm that is the only reader of a convolution or linear layer; by the norm's path.

    Exact in evaluation, up to float32 rounding: y = (Wx + b - mean)/sqrt(var + eps)·gamma + beta. From here on the
    statistics of the norm are constants.
    """
    folds = {}
    for norm, before in recorded.graph.folded().items():
        norm_path, layer_path = recorded.nodes[norm].norm, recorded.nodes[before].layer
        folds[norm_path] = _fuse(layer_path, model.get_submodule(layer_path), model.get_submodule(norm_path))
    return folds


def close(norm: FoldedNorm) -> None:
    """Turn a plain norm into an ``nn.Identity``; one that computes more keeps the rest."""
    norm.closed = True
    if is_standard(norm.module):
        become(norm.module, _identity_like(norm.module))


def _identity_like(module: nn.Module) -> nn.Module:
    """An identity that only calls the module's hooks, which may compute."""
    identity = nn.Identity().train(module.training)
    for name, value in vars(module).items():
        if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
            setattr(identity, name, value)
    return identity


@torch.no_grad()
def _fuse(path: str, layer: Any, module: nn.Module) -> Fold:
    """Scale the layer's weight and shift its bias as the norm would, computed in float64."""
    norm = FoldedNorm(module)
    fold = Fold(path, layer, norm, layer.weight.clone(), None if layer.bias is None else layer.bias.clone())
    weight, bias = norm.weight(layer), norm.bias(layer)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)
    else:
        layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
    return fold


def replace_everywhere(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in place of ``old`` wherever the model holds it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                parent._modules[name] = new
