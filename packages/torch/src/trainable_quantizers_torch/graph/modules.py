"""A model as its layers with weights, for ``prepare`` without data."""

from __future__ import annotations

from torch import nn
from trainable_quantizers_core.graph.operation import ModelGraph, Operation, Weight

from trainable_quantizers_torch.graph.kinds import class_name, kind_of_module, weights_of

_UNSEEN = "seen only as a layer: with data, prepare would see the rest of the forward"


def layers_alone(model: nn.Module) -> ModelGraph:
    """The layers whose weights can be quantized, in order of definition.

    Examples:
        >>> [operation.name for operation in layers_alone(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))]
        ['0']
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for path, module in model.named_modules():
        weights, axis = weights_of(module)
        held = [name for name in weights if module._parameters.get(name) is not None]
        if path and held:
            each = tuple(Weight(name, axis, names[id(getattr(module, name))]) for name in held)
            found.append(Operation(path, kind_of_module(module), class_name(module), (), path, each, note=_UNSEEN))
    return ModelGraph(tuple(found))
