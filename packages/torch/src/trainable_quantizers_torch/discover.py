"""A model as the layers that recipes speak of, and where their quantizers go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import fx, nn
from trainable_quantizers_core import Layer, Recipe

from trainable_quantizers_torch.kinds import (
    WHY_FLOAT,
    changes_values,
    kind_of_function,
    kind_of_module,
    weight_of,
)
from trainable_quantizers_torch.trace import is_own_layer, replace_everywhere

_JOINS = ("norm", "add", "mul", "matmul", "concat", "pool")
_DEFERRED_TO: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_JOINS, ("activation",)),
    **dict.fromkeys(("conv", "depthwise_conv", "conv_transpose", "linear"), ("activation", "norm")),
}
ACTIVATIONS = "activation_quantizers"


@dataclass
class Found:
    """A layer, with what quantizing it takes.

    Args:
        layer: As the recipe sees it.
        module: The module, unless it is a function or an input.
        weight: Name and channel axis of its weight.
        why: Why something of it stays in float.
        node: Its place in the graph; None where the model could not be traced.
    """

    layer: Layer
    module: nn.Module | None = None
    weight: tuple[str, int] | None = None
    why: str = ""
    node: fx.Node | None = None

    def insert(self, model: nn.Module, after: nn.Module) -> None:
        """Put a module behind this layer."""
        if self.node is not None and isinstance(model, fx.GraphModule):
            name = f"{ACTIVATIONS}.{self.node.name}"
            model.add_submodule(name, after)
            with model.graph.inserting_after(self.node):
                inserted = model.graph.call_module(name, (self.node,))
            self.node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
        elif self.module is not None:
            replace_everywhere(model, self.module, nn.Sequential(self.module, after))

    def remove(self, model: nn.Module, after: nn.Module) -> None:
        """Take it away again."""
        if self.node is not None and isinstance(model, fx.GraphModule):
            name = f"{ACTIVATIONS}.{self.node.name}"
            (inserted,) = (node for node in self.node.users if node.target == name)
            inserted.replace_all_uses_with(self.node)
            model.graph.erase_node(inserted)
            model.delete_submodule(name)
        else:
            replace_everywhere(model, after, nn.Identity())


def discover(model: nn.Module, recipe: Recipe) -> list[Found]:
    """The layers in order of execution; those of an untraceable model in order of definition."""
    found = list(_in_graph(model, recipe) if isinstance(model, fx.GraphModule) else _in_modules(model, recipe))
    owners: dict[int, str] = {}
    for one in found:
        if one.weight is not None and one.module is not None:
            parameter = id(getattr(one.module, one.weight[0]))
            if parameter in owners:
                one.why = f"shares its weight with {owners[parameter]}, each with a range of its own"
            owners.setdefault(parameter, one.layer.name)
    return found


def _in_graph(model: fx.GraphModule, recipe: Recipe) -> Iterator[Found]:
    first: dict[nn.Module, str] = {}
    for node in model.graph.nodes:
        if node.op in ("output", "get_attr"):
            continue
        kind, type_name, module = _describe(model, node)
        name = str(node.target) if node.op == "call_module" and module not in first else node.name
        found = _found(name, kind, type_name, None if module in first else module, recipe)
        if module in first:
            found.why = f"the same module as {first[module]}"
        elif module is not None:
            first[module] = name
        user = next(iter(node.users), None)
        follows = _describe(model, user)[0] if user is not None and len(node.users) == 1 else ""
        deferred = follows in _DEFERRED_TO.get(kind, ())
        quantized = (changes_values(kind, type_name) or (module is not None and is_own_layer(module))) and not deferred
        if deferred:
            found.why = "; ".join(filter(None, (found.why, f"output: quantized after {user}")))
        found.node = node
        found.layer = Layer(name, found.layer.types, found.layer.weights, quantized and kind not in WHY_FLOAT)
        yield found
        if kind in WHY_FLOAT:
            yield from _first_outputs(node, name, kind)


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
    for name, module in model.named_modules():
        kind = kind_of_module(module)
        if not name or (inside and name.startswith(inside)):
            continue
        if kind in WHY_FLOAT:
            inside = (*inside, f"{name}.")
        if kind == "other" and not is_own_layer(module):
            continue
        found = _found(name, kind, type(module).__name__, module, recipe)
        quantized = kind in ("activation", "norm", "pool") and changes_values(kind, type(module).__name__)
        found.layer = Layer(name, found.layer.types, found.layer.weights, quantized)
        yield found


def _found(name: str, kind: str, type_name: str, module: nn.Module | None, recipe: Recipe) -> Found:
    weight = None if module is None else weight_of(module)
    why = WHY_FLOAT.get(kind, "") if weight is None and module is not None else ""
    if kind == "attention" and weight is not None:
        why = "the weight of out_proj stays in float: " + WHY_FLOAT["attention"]
    if module is not None and is_own_layer(module):
        own = getattr(module, "weight", None)
        if own is not None and own.ndim > 1:
            if any(rule.type and fnmatchcase(type_name.lower(), rule.type.lower()) for rule in recipe.rules):
                weight = ("weight", 0)
            else:
                why = f"a layer of your own: a rule with type = {type_name!r} quantizes its weight"
    return Found(Layer(name, (kind, type_name), (weight[0],) if weight else ()), module, weight, why)
