"""Batch norm folded into the layer before it."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from trainable_quantizers_torch.graph.kinds import CONVOLUTIONS, TRANSPOSED
from trainable_quantizers_torch.graph.trace import followers, replace_everywhere

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> dict[str, str]:
    """Fold each batch norm whose only input is a convolution or linear layer, in place; names of norm and layer.

    Exact in evaluation, up to float32 rounding: y = (Wx + b - mean)/sqrt(var + eps)·gamma + beta. From here on the
    statistics of the batch norm are constants. In a model without a graph, those of each ``Sequential``.
    """
    return _in_graph(model) if isinstance(model, fx.GraphModule) else _in_sequentials(model)


def _in_graph(model: fx.GraphModule) -> dict[str, str]:
    folded = {}
    uses = [node.target for node in model.graph.nodes if node.op == "call_module"]
    for node in list(model.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := model.get_submodule(node.target), NORMS):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) != 1:
            continue
        layer = model.get_submodule(before.target)
        if not _foldable(layer, norm) or uses.count(before.target) != 1 or uses.count(node.target) != 1:
            continue
        replace_everywhere(model, layer, _fuse(layer, norm))
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
        folded[node.target] = before.target
    model.delete_all_unused_submodules()
    model.recompile()
    return folded


def _in_sequentials(model: nn.Module) -> dict[str, str]:
    names = {module: name for name, module in model.named_modules()}
    held = [module for _, module in model.named_modules(remove_duplicate=False)]
    folded = {}
    for layer, norm in followers(model).items():
        if isinstance(norm, NORMS) and _foldable(layer, norm) and held.count(layer) == held.count(norm) == 1:
            replace_everywhere(model, layer, _fuse(layer, norm))
            replace_everywhere(model, norm, nn.Identity())
            folded[names[norm]] = names[layer]
    return folded


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    known = isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and "weight" in layer._parameters
    return known and norm.running_mean is not None


def _fuse(layer: nn.Module, norm: nn.Module) -> nn.Module:
    was_training = layer.training
    layer.eval()
    norm.eval()
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, norm)
    else:
        fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, TRANSPOSED))
    return fused.train(was_training)
