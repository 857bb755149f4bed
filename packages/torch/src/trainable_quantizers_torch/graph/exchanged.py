"""Detects modules that were replaced after ``prepare``, so that they no longer quantize."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.graph.runtime import QuantizedCalls

_GONE = (
    "replaced or removed after prepare, with the quantizers: nothing is quantized there any longer. Replace modules in "
    "the float model, and prepare it again."
)
_ADVICE = (
    "put it into the float model and prepare that (a rule with skip = true leaves a layer in float), or "
    "wrap it in PytorchTrainableQuantizationWrapper"
)
_HOLDERS = (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)
_QUANTIZING = (*_HOLDERS, QuantizedCalls)
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)
_KNOWN = "_held_by_prepare"

Edge = tuple[str, nn.Module | None, str, nn.Module]
"""The path of a module; what holds it, None for the module that looks; its name there; the module."""


class Held:
    """A check before each forward that a module still holds the modules that quantize in it.

    A module that was put into another one, such as an adapter around a layer, is still held. A layer with parameters
    in place of one that quantized is an error; anything else there, or nothing, a warning.

    Args:
        edges: Modules that quantize, or hold ones that do, in the module itself or in a list or dictionary of it.
    """

    def __init__(self, edges: list[Edge]) -> None:
        self.edges = edges

    def __call__(self, module: nn.Module, args: Any = ()) -> None:
        """PyTorch calls this before a forward."""
        for _, parent, name, child in self.edges:
            if (module if parent is None else parent)._modules.get(name) is not child:
                self.look(module)
                return

    def look(self, module: nn.Module) -> None:
        """Raise or warn if a quantizing module is gone; replicas of ``DataParallel`` hold copies, not checked."""
        if getattr(module, "_is_replica", False):
            return
        held = {id(each) for each in module.modules()}
        for path, parent, name, child in self.edges:
            now = (module if parent is None else parent)._modules.get(name)
            gone = [path for path, each in _quantizing(child, path) if id(each) not in held]
            if now is child or not gone:
                continue
            before = set(child.modules())
            if now is not None and any(each not in before for _, each in _quantizing(now)):
                continue  # what the user wrapped quantizes
            found = ", ".join(gone)
            if now is not None and any(True for _ in now.parameters()):
                raise invalid("prepare", found, "the layer that it quantized", type(now).__name__, _ADVICE)
            warnings.warn(f"{found}: {_GONE}", stacklevel=2)


def _quantizing(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that quantize, with their names."""
    if isinstance(module, _QUANTIZING):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _quantizing(child, f"{path}.{name}".lstrip("."))


def hold(model: nn.Module) -> None:
    """Let each module of a prepared model record the modules that it holds, and check that they still quantize."""
    for path, module in model.named_modules():
        vars(module)[_KNOWN] = True
        edges = list(_edges(path, module, None))
        if edges and not isinstance(module, _NEVER_CALLED):
            module.register_forward_pre_hook(Held(edges))


def _edges(path: str, module: nn.Module, parent: nn.Module | None) -> Iterator[Edge]:
    for name, child in module._modules.items():
        if child is not None and any(_quantizing(child)):
            place = f"{path}.{name}".lstrip(".")
            yield place, parent, name, child
            if isinstance(child, _NEVER_CALLED):
                yield from _edges(place, child, child)


def check_held(model: nn.Module) -> None:
    """Raise or warn if something that quantized is gone, wherever in a model.

    Raises:
        QuantizerError: a layer in float stands where a quantized one did.
    """
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, Held):
                hook(module)


def added(module: nn.Module, path: str = "", inside: bool = False) -> Iterator[str]:
    """Layers with weight matrices that were added to a model after it was prepared, except around it."""
    if isinstance(module, _HOLDERS):
        return
    known = _KNOWN in vars(module)
    if inside and not known and any(each.ndim > 1 for each in module._parameters.values() if each is not None):
        yield path
    for name, child in module.named_children():
        yield from added(child, f"{path}.{name}".lstrip("."), inside or known)


def warn_of_added(model: nn.Module) -> None:
    """Warn about layers that were added, and so compute in float."""
    if found := ", ".join(added(model)):
        warnings.warn(f"{found}: added after prepare, and in float: {_ADVICE}.", stacklevel=4)


def release(model: nn.Module) -> None:
    """Remove the checks, because the model is converted."""
    for module in model.modules():
        vars(module).pop(_KNOWN, None)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, Held):
                del module._forward_pre_hooks[key]
