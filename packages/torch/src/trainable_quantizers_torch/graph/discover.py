"""A model as the layers that recipes speak of, and where their quantizers go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

from torch import fx, nn
from torch.utils.hooks import RemovableHandle
from trainable_quantizers_core import Layer, Recipe
from trainable_quantizers_core.graph.placement import changes_values, is_left_to

from trainable_quantizers_torch.graph.attention import AttentionProjection
from trainable_quantizers_torch.graph.kinds import (
    GIVES_TUPLE,
    WHY_FLOAT,
    keeps_values,
    kind_of_function,
    kind_of_module,
    weights_of,
)
from trainable_quantizers_torch.graph.trace import PASSED, followers, is_own_layer

_WITH_WEIGHTS = ("conv", "conv_transpose", "linear", "matmul")
ACTIVATIONS, OUTPUT = "activation_quantizers", "output_quantizer"


@dataclass
class Found:
    """A layer, with what quantizing it takes.

    Args:
        layer: As the recipe sees it.
        module: The module, unless it is a function or an input.
        weights: Names of its weights that are quantized.
        axis: What counts their channels.
        why: Why something of it stays in float.
        node: Its place in the graph; None where the model could not be traced.
        hook: What sends the output of its module through a quantizer, in place of the graph.
    """

    layer: Layer
    module: nn.Module | None = None
    weights: tuple[str, ...] = ()
    axis: int = 0
    why: str = ""
    node: fx.Node | None = None
    hook: RemovableHandle | None = None

    def insert(self, model: nn.Module, after: nn.Module) -> None:
        """Put a module behind this layer: a node of the graph, or where there is none, inside the module.

        There the module stays where it is and what it is, for forwards that read its attributes.
        """
        if self.node is not None and isinstance(model, fx.GraphModule):
            name = f"{ACTIVATIONS}.{self.node.name}"
            model.add_submodule(name, after)
            model.get_submodule(ACTIVATIONS).training = model.training
            with model.graph.inserting_after(self.node):
                inserted = model.graph.call_module(name, (self.node,))
            self.node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
        elif self.module is not None:
            self.module.add_module(OUTPUT, after)
            self.hook = self.module.register_forward_hook(_output_through)

    def remove(self, model: nn.Module) -> None:
        """Take it away again."""
        if self.node is not None and isinstance(model, fx.GraphModule):
            name = f"{ACTIVATIONS}.{self.node.name}"
            (inserted,) = (node for node in self.node.users if node.target == name)
            inserted.replace_all_uses_with(self.node)
            model.graph.erase_node(inserted)
            model.delete_submodule(name)
        elif self.module is not None and self.hook is not None:
            self.hook.remove()
            delattr(self.module, OUTPUT)


def _output_through(module: nn.Module, args: Any, output: Any) -> Any:
    return module.get_submodule(OUTPUT)(output)


def discover(model: nn.Module, recipe: Recipe) -> list[Found]:
    """The layers in order of execution; those of an untraceable model in order of definition."""
    found = list(_in_graph(model, recipe) if isinstance(model, fx.GraphModule) else _in_modules(model, recipe))
    owners: dict[int, str] = {}
    readers = _direct_readers(model)
    for one in found:
        for name in one.weights:
            parameter = id(getattr(one.module, name))
            if parameter in readers:  # it would be in float there and quantized here, one parameter in two versions
                one.weights, one.layer = (), replace(one.layer, weights=())
                one.why = _joined(one.why, f"its weight is read by {readers[parameter]} directly: left in float")
            elif parameter in owners:
                one.why = _joined(one.why, f"shares its weight with {owners[parameter]}, each with a range of its own")
            owners.setdefault(parameter, one.layer.name)
    return found


def _direct_readers(model: nn.Module) -> dict[int, str]:
    """The functions that read a parameter themselves, by identity of the parameter."""
    if not isinstance(model, fx.GraphModule):
        return {}
    return {
        id(_attribute(model, node)): str(user)
        for node in model.graph.nodes
        if node.op == "get_attr"
        for user in node.users
    }


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    return attrgetter(str(node.target))(model)


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _in_graph(model: fx.GraphModule, recipe: Recipe) -> Iterator[Found]:
    first: dict[nn.Module, str] = {}
    targets = {str(node.target) for node in model.graph.nodes if node.op == "call_module"}
    for node in model.graph.nodes:
        if node.op in ("output", "get_attr"):
            continue
        kind, type_name, module = _describe(model, node)
        if module is not None and module not in first:
            name = str(node.target)
        else:  # a layer may be called what the graph calls a function
            name = f"{node.name}.{type_name}" if node.name in targets else node.name
        found = _found(name, kind, type_name, None if module in first else module, recipe)
        if module in first:
            found.why = f"the same module as {first[module]}"
        elif module is not None:
            first[module] = name
        user = _only_user(model, node)
        deferred = user is not None and is_left_to(kind, _describe(model, user)[0])
        quantized = changes_values(kind, type_name) or (module is not None and is_own_layer(module))
        if deferred:
            found.why = _joined(found.why, f"output: left to {user}")
        if module is None:
            found.why = _joined(found.why, _why_function(model, node, kind, type_name))
        found.node = node
        gives_tuple = isinstance(module, GIVES_TUPLE)
        found.layer = replace(found.layer, activation=quantized and not deferred and not gives_tuple)
        yield found
        if gives_tuple:
            yield from _first_outputs(node, name, kind)


def _only_user(model: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What the output goes into, if that is one thing; past what passes values on as they are."""
    users = list(node.users)
    if len(users) == 1 and isinstance(_describe(model, users[0])[2], PASSED):
        return _only_user(model, users[0])
    return users[0] if len(users) == 1 else None


def _why_function(model: nn.Module, node: fx.Node, kind: str, name: str) -> str:
    if kind in _WITH_WEIGHTS:
        for read in node.all_input_nodes:
            if read.op == "get_attr" and isinstance(_attribute(model, read), nn.Parameter):
                return f"reads {read.target} directly: only weights of layers are quantized"
    return "a function that recipes have no word for" if kind == "other" and not keeps_values(name) else ""


def _first_outputs(node: fx.Node, name: str, kind: str) -> Iterator[Found]:
    """Of a layer that gives a tuple, the output that is no state."""
    for user in node.users:
        if kind_of_function(user.target) == "other" and user.args[1:] == (0,):
            yield Found(Layer(f"{name}.output", (kind, "output"), activation=True), node=user)


def _describe(model: fx.GraphModule, node: fx.Node) -> tuple[str, str, nn.Module | None]:
    """(kind, type, module) of a node."""
    if node.op == "placeholder":
        return "input", "input", None
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return kind_of_module(module), type(module).__name__, module
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return kind_of_function(node.target), name, None


def _in_modules(model: nn.Module, recipe: Recipe) -> Iterator[Found]:
    inside: tuple[str, ...] = ()
    following = followers(model)
    for name, module in model.named_modules():
        kind = kind_of_module(module)
        if not name or (inside and name.startswith(inside)):
            continue
        if kind in WHY_FLOAT:
            inside = (*inside, f"{name}.")
        if kind == "other" and not is_own_layer(module):
            continue
        found = _found(name, kind, type(module).__name__, module, recipe)
        follower = following.get(module)
        deferred = follower is not None and is_left_to(kind, kind_of_module(follower))
        quantized = changes_values(kind, type(module).__name__) or is_own_layer(module)
        quantized = quantized and not deferred and not isinstance(module, GIVES_TUPLE)
        if deferred:
            found.why = _joined(found.why, f"output: left to the {type(follower).__name__} that follows")
        found.layer = replace(found.layer, activation=quantized)
        yield found


def _found(name: str, kind: str, type_name: str, module: nn.Module | None, recipe: Recipe) -> Found:
    weights, axis = ((), 0) if module is None else weights_of(module)
    why = WHY_FLOAT.get(kind, "") if module is not None and not weights else ""
    if module is not None and kind == "other" and is_own_layer(module):
        own = module._parameters.get("weight")
        if own is not None and own.ndim > 1:
            if any(rule.type and fnmatchcase(type_name.lower(), rule.type.lower()) for rule in recipe.rules):
                weights = ("weight",)
            else:
                why = f"a layer of your own: a rule with type = {type_name!r} quantizes its weight"
    if module is not None and any(weight not in module._parameters for weight in weights):
        weights, why = (), "its weight is computed: torch.nn.utils.parametrize.remove_parametrizations stores it again"
    kinds = (kind, "attention") if isinstance(module, AttentionProjection) else (kind,)
    return Found(Layer(name, (*kinds, type_name), weights), module, weights, axis, why)
