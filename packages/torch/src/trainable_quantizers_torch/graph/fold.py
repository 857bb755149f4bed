"""Batch norms folded into the layers before them."""

from __future__ import annotations

import torch
from torch import nn

from trainable_quantizers_torch.graph.build import RecordedGraph
from trainable_quantizers_torch.graph.kinds import TRANSPOSED, is_standard


def fold_batch_norms(model: nn.Module, recorded: RecordedGraph) -> dict[str, str]:
    """Fold each batch norm that alone reads a convolution or linear layer, in place; paths of norm and layer.

    Exact in evaluation, up to float32 rounding: y = (Wx + b - mean)/sqrt(var + eps)·gamma + beta. From here on the
    statistics of the norm are constants. A norm that is a layer of its own becomes an ``nn.Identity``; one that
    computes more, such as an activation function, goes on with that.
    """
    folded = {}
    for norm, before in recorded.graph.folded().items():
        norm_path, layer_path = recorded.nodes[norm].norm, recorded.nodes[before].layer
        module = model.get_submodule(norm_path)
        _fuse(model.get_submodule(layer_path), module)
        if is_standard(module):
            replace_everywhere(model, module, _identity_like(module))
        folded[norm_path] = layer_path
    return folded


def _identity_like(module: nn.Module) -> nn.Module:
    """What does nothing but to call the module's hooks, which may compute."""
    identity = nn.Identity().train(module.training)
    for name, value in vars(module).items():
        if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
            setattr(identity, name, value)
    return identity


@torch.no_grad()
def _fuse(layer: nn.Module, norm: nn.Module) -> None:
    """Scale the layer's weight and shift its bias as the norm would, computed in float64."""
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = layer.weight
    layer.weight.copy_((weight.double() * _along_outputs(factor, layer)).to(weight.dtype))
    if layer.bias is not None:
        layer.bias.copy_((layer.bias.double() * factor + shift).to(weight.dtype))
    else:
        layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _along_outputs(factor: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """The factors of the output channels, in the shape of the layer's weight."""
    others = [1] * (layer.weight.ndim - 2)
    if not isinstance(layer, TRANSPOSED):
        return factor.reshape(-1, 1, *others)
    per_group = factor.reshape(layer.groups, 1, -1, *others)
    return per_group.expand(layer.groups, layer.weight.shape[0] // layer.groups, -1, *others).reshape(
        layer.weight.shape[0], -1, *others
    )


def replace_everywhere(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in the place of ``old`` wherever the model holds it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                parent._modules[name] = new
