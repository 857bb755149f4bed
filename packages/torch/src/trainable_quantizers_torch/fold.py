"""Batch norm folded into the layer before it."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from trainable_quantizers_torch.kinds import CONVOLUTIONS, TRANSPOSED
from trainable_quantizers_torch.trace import replace_everywhere

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: fx.GraphModule) -> dict[str, str]:
    """Fold each batch norm whose only input is a convolution or linear layer, in place; names of norm and layer.

    Exact in evaluation, up to float32 rounding: y = (Wx + b - mean)/sqrt(var + eps)·gamma + beta. From here on the
    statistics of the batch norm are constants.
    """
    folded = {}
    uses = [node.target for node in model.graph.nodes if node.op == "call_module"]
    for node in list(model.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := model.get_submodule(node.target), _NORMS):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) != 1 or norm.running_mean is None:
            continue
        layer = model.get_submodule(before.target)
        foldable = isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))
        if not foldable or uses.count(before.target) != 1 or uses.count(node.target) != 1:
            continue
        replace_everywhere(model, layer, _fuse(layer, norm))
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
        folded[node.target] = before.target
    model.delete_all_unused_submodules()
    model.recompile()
    return folded


def _fuse(layer: nn.Module, norm: nn.Module) -> nn.Module:
    was_training = layer.training
    layer.eval()
    norm.eval()
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, norm)
    else:
        fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, TRANSPOSED))
    return fused.train(was_training)
