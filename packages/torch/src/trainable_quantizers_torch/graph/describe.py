"""Describes a call as an operation: its kind, weights, owning layer, and work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from trainable_quantizers_core.graph.operation import Weight

from trainable_quantizers_torch.graph import kinds
from trainable_quantizers_torch.graph.recording import Node
from trainable_quantizers_torch.graph.weights import Path, operands

_WHOLE = "what it computes inside stays in float: it has no parts with bias_k, bias_v or add_zero_attn"


class Describer:
    """Describes calls that the forwards of a model make.

    Args:
        modules: The modules of the model, by path.
        owners: Of each parameter, by identity: the path of a module that holds it, and its name there.
    """

    def __init__(self, modules: Mapping[str, nn.Module], owners: Mapping[int, tuple[str, str]]) -> None:
        self.modules, self.owners = modules, owners

    def whole(self, path: str, arguments: dict[Path, Node]) -> Node:
        """The node of a module that counts as one operation."""
        module = self.modules[path]
        node = Node(kinds.kind_of_whole(module), kinds.class_name(module), path, arguments=arguments, layer=path)
        node.read = tuple(_activations(node))[:1]
        return node

    def node(
        self,
        path: str,
        function: Callable[..., Any],
        arguments: dict[Path, Node],
        args: Any,
        kwargs: Any,
        part: str = "",
    ) -> Node:
        """The node of a call of a function.

        Args:
            path: Of the module whose forward calls it.
            function: The function.
            arguments: Nodes of the tensors among its arguments.
            args: Positional arguments.
            kwargs: Keyword arguments.
            part: The name of the part of a function that this is.
        """
        module = self.modules[path]
        word, kind = kinds.name_of(function), kinds.kind_of(function)
        node = Node(kind, word, ".".join(filter(None, (path, part or word))), function, arguments)
        standard = kinds.is_standard(module) and kind != "other" and not part
        if standard or (kinds.is_standard(module) and kinds.is_identity(function) and not part):
            node.name, node.layer, node.type = path, path, kinds.class_name(module)
        if kind == "recurrent":
            _recurrent(node, module, args)
        elif kind in ("conv", "conv_transpose", "linear", "matmul", "embedding"):
            self._weighted(node, path, args, kwargs)
            if part.endswith("_proj"):
                node.type = "attention"
        elif kind == "attention":  # one that has no parts: see attention.py
            node.read, node.items = tuple(_activations(node))[:3], (0,)
            node.inside = _WHOLE
            node.work = 4 * args[0].numel() * args[0].shape[-1]  # the projections
        elif kind in ("norm", "activation", "pool"):
            node.read = tuple(_activations(node))[:1]
        elif kind in ("add", "mul", "concat"):
            node.read = tuple(
                path for path, each in arguments.items() if each.floating and (each.size > 1 or not each.constant)
            )
        elif word == "masked_scores":
            node.read = ((0,),)
        else:
            node.read = tuple(_activations(node))
        if word == "batch_norm" and isinstance(module, nn.modules.batchnorm._BatchNorm) and not _by_batch(args, kwargs):
            node.norm = path
        return node

    def _weighted(self, node: Node, path: str, args: Any, kwargs: Any) -> None:
        """Tell weights from inputs, name the layer that owns them, count the work."""
        assert node.function is not None
        module, roles = self.modules[path], operands(node.function, args, kwargs)
        weights = {place: axis for place, axis in roles.weights.items() if _is_weight(node, place)}
        for place, axis in weights.items():
            tensor, made = _at(place, args, kwargs), node.arguments[place]
            name, shared = "weight", made.parameter
            if made.parameter:
                owner, attribute = self._owner(path, tensor)
                if self._is_layer(owner) and not node.weights:
                    node.name, node.layer, name = owner, owner, attribute
                    if node.type != "attention":
                        node.type = kinds.class_name(self.modules[owner])
            elif len(weights) > 1:
                name = f"weight_{place[-1]}"
            if not node.layer and not module._modules and path and not kinds.is_standard(module):
                node.name, node.type = path, kinds.class_name(module)  # a layer of one's own
            node.weights[place] = (Weight(name, axis, shared), tensor, made)
        node.read = tuple(place for place in roles.inputs if place in node.arguments and place not in weights)
        if node.kind != "embedding":
            node.read = tuple(place for place in node.read if node.arguments[place].floating)
        node.work = roles.macs
        if node.kind == "conv" and roles.depthwise:
            node.kind = "depthwise_conv"
        bias = _at((2,), args, kwargs, "bias")
        own = self.modules[node.layer]._parameters if node.layer else {}
        node.takes_bias = "bias" in own and own["bias"] is bias
        direct = any(weight.shared for weight, _, _ in node.weights.values())  # not one that is computed
        node.bias = "bias" if node.takes_bias and bias is not None and direct else ""

    def _owner(self, path: str, tensor: torch.Tensor) -> tuple[str, str]:
        """The module that holds a parameter, preferably the running one, and its name there."""
        for name, parameter in self.modules[path]._parameters.items():
            if parameter is tensor:
                return path, name
        return self.owners[id(tensor)]

    def _is_layer(self, path: str) -> bool:
        """Whether the module that owns a weight can be wrapped: not the model, and no weights inside it."""
        module = self.modules[path]
        inside = any(True for child in module.children() for _ in child.parameters())
        return bool(path) and not inside and not hasattr(module, "parametrizations")


def _is_weight(node: Node, place: Path) -> bool:
    made = node.arguments.get(place)
    return made is not None and made.constant and made.floating and made.size > 1


def _activations(node: Node) -> Iterator[Path]:
    return (path for path, each in node.arguments.items() if not each.constant and not each.random and each.floating)


def _recurrent(node: Node, module: nn.Module, args: Any) -> None:
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        names, axis = kinds.weights_of(module)
        node.weights = {
            ("module", name): (
                Weight(name, axis, f"{node.layer}.{name}"),
                getattr(module, name),
                Node("constant", "", ""),
            )
            for name in names
        }
        samples = args[0].numel() // max(args[0].shape[-1], 1)
        node.work = samples * sum(getattr(module, name).numel() for name in names)
    node.inside = "what it computes inside stays in float"
    node.read = tuple(_activations(node))
    word = node.type.lower()
    node.items = None if word.endswith("cell") and "lstm" not in word else (0,) if word.endswith("cell") else (0, 1)


def _by_batch(args: Any, kwargs: Any) -> bool:
    training = _at((5,), args, kwargs, "training")
    return bool(training) or _at((1,), args, kwargs, "running_mean") is None


def _at(place: Path, args: Any, kwargs: Any, name: str = "") -> Any:
    first = place[0]
    by_position = isinstance(first, int) and first < len(args)
    value = args[first] if by_position else kwargs.get(name if isinstance(first, int) else first)
    return value[place[1]] if len(place) > 1 else value
