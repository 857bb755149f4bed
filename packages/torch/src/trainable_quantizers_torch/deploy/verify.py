"""The comparison of a deployed model with the trained one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core import Program, QuantizerError, Verification
from trainable_quantizers_core.deploy.verification import Comparison, result_of
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.tie_rules import TieRules

from trainable_quantizers_torch.calibration.batches import modes_kept, run_on
from trainable_quantizers_torch.deploy.convert import check_converted, convert, quantizers_in
from trainable_quantizers_torch.deploy.integer import operation_of, program_of
from trainable_quantizers_torch.graph.runtime import QUANTIZERS

_HOLDER = PytorchActivationQuantizationHolder
_QUANTIZED = (PytorchQuantizationWrapper, _HOLDER)


def verify(trained: nn.Module, deployed: nn.Module | Callable[..., Any], data: Any) -> Verification:
    """Compare two models on batches of data in evaluation mode: their outputs, and those of their common layers.

    Args:
        trained: The model that was trained.
        deployed: The model that ``convert`` made of it, its integer program, or any function that takes the same
            arguments and gives tensors or arrays, such as a session of an exported file.
        data: Batches as for ``prepare``.

    Raises:
        QuantizerError: no data, a batch that a model does not take, or outputs of other shapes.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, convert, prepare
        >>> x = torch.randn(8, 4)
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> print(verify(model, convert(model), [x]))
        All 16 output values are identical.
    """
    if not isinstance(trained, nn.Module):
        raise invalid("verify", "trained", "a module", trained, "pass what prepare returned, trained")
    if not callable(deployed):
        raise invalid("verify", "deployed", "a module or a function", deployed, "pass what convert returned")
    if isinstance(deployed, nn.Module) and not any(quantizers_in(module) for module in deployed.modules()):
        check_converted(deployed, "verify")
    found, call = compared(trained, deployed, data)
    if found.identical or (found.first_difference is not None and not isinstance(deployed, Program)):
        return found
    return replace(found, causes=_causes(trained, deployed, call))


def compared(
    trained: nn.Module, deployed: Any, data: Any, layers: bool = True
) -> tuple[Verification, Callable[[Any], Any]]:
    """The same without the causes, and how a function is called on the last batch."""
    comparison = Comparison()
    seen: list[dict[str, list[torch.Tensor]]] = [{}, {}]
    with ExitStack() as stack:
        if isinstance(deployed, nn.Module):
            stack.enter_context(modes_kept(deployed))
            deployed.eval()
            shared = dict(_layers(trained)).keys() & dict(_layers(deployed)).keys() if layers else ()
            for model, outputs in zip((trained, deployed), seen, strict=True):
                stack.enter_context(_kept_outputs(model, {name: name for name in shared}, outputs))
        elif isinstance(deployed, Program):
            of = {name: operation_of(name) for name, each in _layers(trained) if isinstance(each, _HOLDER)}
            stack.enter_context(_kept_outputs(trained, of, seen[0]))
        for call, wanted in run_on(trained, data, "verify"):
            if isinstance(deployed, Program):
                given, seen[1] = result_of(deployed, call, deployed.observed)
            else:
                given = result_of(deployed, call, deployed)
            _compare(comparison, seen, wanted, given)
            for outputs in seen:
                outputs.clear()
    return comparison.result(), call


def _causes(trained: nn.Module, deployed: Any, call: Callable[[Any], Any]) -> tuple[str, ...]:
    """Possible causes of other outputs in the network, as far as its integer program shows them."""
    if isinstance(deployed, Program):
        return deployed.causes
    trainable = [quantizer for module in trained.modules() for quantizer in quantizers_in(module)]
    args, kwargs = call(lambda *args, **kwargs: (args, kwargs))
    holders = {operation_of(name): each for name, each in _layers(trained) if isinstance(each, _HOLDER)}
    rules = {name: getattr(each.activation_holder_quantizer, "rounding", None) for name, each in holders.items()}
    ties = TieRules("verify", {name: rule for name, rule in rules.items() if rule is not None})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convert, which the user did not call
            converted = convert(trained) if trainable else trained
        return program_of(converted, args, kwargs, ties).causes
    except QuantizerError:  # it has none
        return ()


def _compare(comparison: Comparison, seen: list[dict[str, list[torch.Tensor]]], wanted: Any, given: Any) -> None:
    trained, deployed = ({name: [*map(_array, each)] for name, each in outputs.items()} for outputs in seen)
    comparison.layers(trained, deployed)
    outputs = ([(name, _array(each)) for name, each in _named(result)] for result in (wanted, given))
    comparison.outputs(*outputs)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The wrappers, the holders, and modules that hold no others, except those inside a wrapper."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name and not (inside and name.startswith(inside)):
            if isinstance(module, PytorchQuantizationWrapper):
                inside = (*inside, f"{name}.layer")
            if isinstance(module, _QUANTIZED) or not set(module._modules) - {QUANTIZERS}:
                yield name, module


@contextmanager
def _kept_outputs(model: nn.Module, names: Mapping[str, str], outputs: dict[str, list[torch.Tensor]]) -> Iterator[None]:
    """Collect the outputs of layers, in order of execution, under their given names."""

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            tensors = [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            outputs.setdefault(name, []).extend(tensors)

        return hook

    handles = [module.register_forward_hook(keep(names[name])) for name, module in _layers(model) if name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named(result: Any) -> list[tuple[str, Any]]:
    """The tensors of a result: ``output``, ``output.logits``, ``output.0``."""
    leaves, _ = _pytree.tree_flatten_with_path(result)
    return [
        (f"output{_pytree.keystr(path)}", leaf) for path, leaf in leaves if isinstance(leaf, (torch.Tensor, np.ndarray))
    ]


def _array(tensor: Any) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.detach().double().cpu().numpy()
