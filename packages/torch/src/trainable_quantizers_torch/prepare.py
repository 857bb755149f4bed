"""From a float model to one whose weights and activations are quantized and learn their ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import fx, nn
from trainable_quantizers_core import (
    LayerPlan,
    Recipe,
    Summary,
    SummaryRow,
    activation_parameters,
    weights_parameters,
)
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.summary import scheme_in_words

from trainable_quantizers_torch.calibration.batches import names_of_arguments
from trainable_quantizers_torch.calibration.observe import Observer, calibrate
from trainable_quantizers_torch.graph.attention import unfuse_attention
from trainable_quantizers_torch.graph.discover import Found, discover
from trainable_quantizers_torch.graph.fold import fold_batch_norm as fold
from trainable_quantizers_torch.graph.kinds import weights_of
from trainable_quantizers_torch.graph.trace import replace_everywhere, trace
from trainable_quantizers_torch.layers.holder import PytorchTrainableActivationQuantizationHolder
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer

_SUMMARY = "quantization_summary"
_NOT_FOLDED = "not folded: no convolution or linear layer goes into it alone"


def prepare(
    model: nn.Module,
    recipe: Recipe,
    calibration_data: Any = None,
    *,
    fold_batch_norm: bool = False,
    verbose: bool = True,
) -> nn.Module:
    """A copy of ``model`` that quantizes as ``recipe`` says, with ranges from data, ready to train.

    Args:
        model: Stays as it is.
        recipe: What is quantized, and how.
        calibration_data: Batches for the ranges of activations: tensors, tuples (of which as many items are used as
            the model requires), or dictionaries of keyword arguments. A ``DataLoader`` is fine.
        fold_batch_norm: Fold batch norms into the layers before them first.
        verbose: Show a progress bar and print the summary.

    Raises:
        QuantizerError: not a module, no recipe, no data, a rule that matches nothing, or nothing to quantize.

    Example:
        >>> import torch
        >>> from trainable_quantizers_torch import Recipe, convert
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> prepared = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> torch.equal(convert(prepared)(x), prepared(x))
        True
    """
    if not isinstance(model, nn.Module):
        raise invalid("prepare", "model", "a torch.nn.Module", model, "pass the network itself")
    if not isinstance(recipe, Recipe):
        advice = "load one with Recipe.from_file, or take one of Recipe.presets()"
        raise invalid("prepare", "recipe", "a Recipe", recipe, advice)
    if next(_quantizing(model), None) is not None:
        advice = "pass the float model"
        raise invalid("prepare", "model", "one without quantizers", type(model).__name__, advice)
    model = unfuse_attention(_copy(model))
    if weights_of(model)[0]:
        advice = "put the layer into torch.nn.Sequential"
        raise invalid("prepare", "model", "a network that holds layers", type(model).__name__, advice)
    given, calibration_data = names_of_arguments(model, calibration_data)
    graph, why_not = trace(model, given)
    model = model if graph is None else graph
    folded = fold(model) if fold_batch_norm else {}
    rows = _quantize(model, recipe, calibration_data, verbose)
    if fold_batch_norm:
        rows = [replace(row, reason=f"{row.reason}; {_NOT_FOLDED}") if "BatchNorm" in row.type else row for row in rows]
    rows += [SummaryRow(norm, "BatchNorm", reason=f"folded into {layer}") for norm, layer in folded.items()]
    if graph is None:
        advice = "functions and sums inside its forward stay in float"
        rows.append(SummaryRow("(forward)", "", reason=f"cannot be traced: {advice}", findings=(why_not,)))
    found = Summary(tuple(rows))
    vars(next(_quantizing(model), model))[_SUMMARY] = found  # a graph loses its own attributes when copied
    if verbose:
        print(found)
    return model


def summary(model: nn.Module) -> Summary:
    """What ``prepare`` did to each layer.

    Raises:
        QuantizerError: the model does not come from ``prepare``.
    """
    found = find_summary(model)
    if found is None:
        raise invalid("summary", "model", "one that prepare made", type(model).__name__, "prepare it first")
    return found


def find_summary(model: nn.Module) -> Summary | None:
    """The same, or None."""
    for module in (*_quantizing(model), model):
        if _SUMMARY in vars(module):
            return vars(module)[_SUMMARY]
    return None


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module raises that cannot be copied
        advice = f"copying says: {error}"
        raise invalid("prepare", "model", "one that copy.deepcopy can copy", type(model).__name__, advice) from error


def _quantizing(model: nn.Module) -> Iterator[nn.Module]:
    kinds = (PytorchTrainableQuantizationWrapper, PytorchTrainableActivationQuantizationHolder)
    return (module for module in model.modules() if isinstance(module, kinds))


def _quantize(model: nn.Module, recipe: Recipe, data: Any, verbose: bool) -> list[SummaryRow]:
    found = discover(model, recipe)
    plans = recipe.plan([one.layer for one in found])
    observers = [None if plan.activations is None else Observer() for plan in plans]
    for one, observer in zip(found, observers, strict=True):
        if observer is not None:
            one.insert(model, observer)
    if any(observers):
        _recompile(model)
        calibrate(model, data, verbose)
    rows = [_settle(model, *each) for each in zip(found, plans, observers, strict=True)]
    _recompile(model)
    return rows


def _recompile(model: nn.Module) -> None:
    if isinstance(model, fx.GraphModule):
        model.graph.lint()
        model.recompile()


def _settle(model: nn.Module, one: Found, plan: LayerPlan, observer: Observer | None) -> SummaryRow:
    """Quantize what is planned for one layer."""
    weights = activations = ""
    reasons = [plan.reason if one.layer.weights or one.layer.activation else "", one.why]
    findings: list[str] = []
    if plan.weights is not None and one.module is not None:
        quantizers = {}
        for name in one.weights:
            array = getattr(one.module, name).detach().float().cpu().numpy()
            calibrated = weights_parameters(array, plan.weights, one.axis)
            findings += calibrated.findings
            config = plan.weights.config(calibrated.params, one.axis)
            quantizers[name] = plan.weights.quantizer(config, BasePytorchTrainableQuantizer)
        wrapper = PytorchTrainableQuantizationWrapper(one.module, quantizers)
        replace_everywhere(model, one.module, wrapper.train(one.module.training))
        weights = scheme_in_words(plan.weights)
    if plan.activations is not None and observer is not None:
        if observer.left_in_float:
            one.remove(model)
            reasons.append(f"output: {observer.left_in_float}")
        else:
            scheme = plan.activations
            measured = activation_parameters(observer.statistics, scheme)
            findings += measured.findings
            quantizer = scheme.quantizer(scheme.config(measured.params), BasePytorchTrainableQuantizer)
            holder = PytorchTrainableActivationQuantizationHolder(quantizer)
            device = next((tensor.device for tensor in model.parameters()), None)
            replace_everywhere(model, observer, holder.to(device).train(model.training))
            activations = scheme_in_words(scheme)
    reason = "; ".join(filter(None, reasons)) or "nothing to quantize"
    return SummaryRow(one.layer.name, one.layer.types[-1], weights, activations, reason, tuple(findings))
