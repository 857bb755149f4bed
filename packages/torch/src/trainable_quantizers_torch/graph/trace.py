"""A model as a graph of its operations, where that is possible."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

PASSED = (nn.Identity, nn.Dropout)  # what values go through as they are when it is deployed


def is_own_layer(module: nn.Module) -> bool:
    """Whether it is a layer that the user wrote: parameters, and no other modules."""
    own = next(module.parameters(recurse=False), None) is not None
    return own and not module._modules and not type(module).__module__.startswith("torch.nn")


def _is_derived_layer(module: nn.Module) -> bool:
    """Whether its class is derived from a layer of torch.nn, and it holds no other modules."""
    bases = [base for base in type(module).__mro__ if base.__module__.startswith("torch.nn") and base is not nn.Module]
    return bool(bases) and not module._modules


class _Tracer(fx.Tracer):
    """Takes modules of torch.nn for layers, and those that hold parameters and no other module.

    Args:
        given: Names of the arguments that a call will give; all others keep their defaults, so that
            ``if mask is None`` is decided as it will be. None is for PyTorch, which traces what it unpickles.
    """

    def __init__(self, given: Sequence[str] | None = None) -> None:
        super().__init__()
        self.given = given

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The function that is traced, and what it is called with."""
        if self.given is None:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        names = self.given
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names]
        return lambda root, *values: root_fn(root, **dict(zip(names, values, strict=True))), [self.root, *proxies]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m).__module__ == nn.TransformerEncoderLayer.__module__:  # made of layers
            return False
        leaf = is_own_layer(m) or _is_derived_layer(m) or isinstance(m, nn.MultiheadAttention)
        return leaf or super().is_leaf_module(m, module_qualified_name)


@contextmanager
def _without_short_cuts() -> Iterator[None]:
    """Transformers of torch.nn call their layers, in evaluation too."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Each module leaves in the mode in which it came: a frozen batch norm of a model in training stays frozen."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(model: nn.Module, given: Sequence[str]) -> tuple[fx.GraphModule | None, str]:
    """The graph, which shares the modules of ``model``; or None and why there is none.

    It is a function of the arguments that are ``given``. What is traced are copies, which keep what a forward does to
    its module.
    """
    copies = [copy.deepcopy(model).train(mode) for mode in (True, False)]
    try:
        with _without_short_cuts():
            graphs = [_Tracer(given).trace(each) for each in copies]
    except Exception as error:  # whatever the user's forward raises when it is called with proxies
        reason = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    for place in filter(None, map(_kept_result, copies)):
        return None, f"its forward keeps a result in {place}, which a graph of operations does not"
    training, evaluation = graphs
    for node in training.nodes:  # tensors that the forward makes of constants
        if node.op == "get_attr" and not hasattr(model, node.target.partition(".")[0]):
            setattr(model, node.target, getattr(copies[0], node.target))
    if str(training) != str(evaluation):
        if not _same_but_dropout(training, evaluation):
            return None, "its forward does different things in training and in evaluation"
        _dropout_as_modules(model, training)
    traced = fx.GraphModule(model, training, type(model).__name__)
    for name, module in traced.named_modules():  # what only holds others is new, and in training
        module.training = model.get_submodule(name).training
    return traced, ""


def _kept_result(traced: nn.Module) -> str:
    """Where a module that was traced holds what its forward computed; empty if nowhere."""
    for name, module in traced.named_modules():
        for attribute, value in {**vars(module), **module._buffers, **module._parameters}.items():
            if not attribute.startswith("_") and any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves(value)):
                return f"{name}.{attribute}" if name else attribute
    return ""


def _is_dropout(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "dropout"


def _same_but_dropout(one: fx.Graph, other: fx.Graph) -> bool:
    nodes = list(zip(one.nodes, other.nodes, strict=False))
    return len(one.nodes) == len(other.nodes) and all(
        str(a.target) == str(b.target) and (_is_dropout(a) or _constants(a) == _constants(b)) for a, b in nodes
    )


def _constants(node: fx.Node) -> str:
    return str((node.args, node.kwargs))


def _dropout_as_modules(model: nn.Module, graph: fx.Graph) -> None:
    """Functions that were traced with ``training=True`` become modules, which know the model's mode."""
    for node in list(graph.nodes):
        if _is_dropout(node):
            name = f"functional_{node.name}"
            probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            model.add_module(name, nn.Dropout(probability).train(model.training))
            with graph.inserting_before(node):
                module = graph.call_module(name, (node.kwargs.get("input", node.args[0] if node.args else None),))
            node.replace_all_uses_with(module)
            graph.erase_node(node)


def replace_everywhere(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in the place of ``old`` wherever the model holds it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                parent._modules[name] = new


def followers(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The module that follows another, as far as a ``Sequential`` says."""
    sequences = [module for module in model.modules() if type(module).forward is nn.Sequential.forward]
    rows = [[child for child in sequence if not isinstance(child, PASSED)] for sequence in sequences]
    return {module: follower for row in rows for module, follower in pairwise(row)}
