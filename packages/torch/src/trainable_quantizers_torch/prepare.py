"""Turns a float model into one that quantizes its weights and activations and learns their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core import Recipe, Summary
from trainable_quantizers_core.calibration.batches import MAX_BATCHES
from trainable_quantizers_core.calibration.bias_correction import BATCHES
from trainable_quantizers_core.calibration.observation import Observation
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.folding import AT_CONVERSION, check_folding
from trainable_quantizers_core.graph.operation import Weight
from trainable_quantizers_core.graph.settle import settle
from trainable_quantizers_core.inventory import accumulator_bits

from trainable_quantizers_torch.calibration.batches import (
    arguments_of,
    batch_explained,
    first_batches,
    modes_kept,
    names_of_tensors,
    run_on,
)
from trainable_quantizers_torch.calibration.bias_correction import correct_biases
from trainable_quantizers_torch.calibration.observe import Observer
from trainable_quantizers_torch.calibration.ranks import check_group, merged
from trainable_quantizers_torch.deploy.self_check import check_prepared
from trainable_quantizers_torch.graph.apply import Placed, wrap
from trainable_quantizers_torch.graph.build import build
from trainable_quantizers_torch.graph.equalize import equalize_layers
from trainable_quantizers_torch.graph.exchanged import hold
from trainable_quantizers_torch.graph.fold import close, fold_batch_norms
from trainable_quantizers_torch.graph.kinds import is_standard
from trainable_quantizers_torch.graph.modules import layers_alone
from trainable_quantizers_torch.graph.record import record
from trainable_quantizers_torch.graph.recording import Recording
from trainable_quantizers_torch.graph.runtime import QuantizedCalls
from trainable_quantizers_torch.inventory import quantizers_of, watched_sums
from trainable_quantizers_torch.layers.copies import copied, trainable
from trainable_quantizers_torch.layers.holder import PytorchTrainableActivationQuantizationHolder
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer

_SUMMARY = "quantization_summary"
_PACKAGE = "trainable-quantizers-torch"


@trainable
def prepare(
    model: nn.Module,
    recipe: Recipe,
    calibration_data: Any = None,
    *,
    fold_batch_norm: bool | str = False,
    equalize: bool = False,
    check: bool = True,
    process_group: Any = None,
    verbose: bool = True,
) -> nn.Module:
    """A copy of ``model`` that quantizes as ``recipe`` says, with ranges from data, ready to train.

    The copy is of the same class, with the same attributes, methods and forward: the first batch is run once to see
    what the forward computes, and from then on the forward quantizes as it runs.

    Args:
        model: Stays as it is.
        recipe: States what is quantized, and how.
        calibration_data: Batches for the ranges of activations: tensors, tuples (of which as many items are used as
            the model requires), or dictionaries of keyword arguments. A ``DataLoader`` is fine. Without any, the
            weights of layers alone can be quantized.
        fold_batch_norm: Fold batch norms into the layers before them first; needs data. With ``"at_conversion"`` they
            normalize while the copy trains, and layers quantize the weights that they have once the norms are folded.
        equalize: Scale channels from one layer into the next, by powers of two, so that the ranges of their weights are
            alike; needs data.
        check: Compare the copy, with its quantizers bypassed, to the model on the first batch.
        process_group: Of ``torch.distributed``: the processes that all call ``prepare``, each with data of its own.
            Their statistics are merged, so that all get the same quantizers.
        verbose: Show a progress bar and print the summary.

    Raises:
        QuantizerError: not a module, no recipe, no data, a rule that matches nothing, nothing to quantize, less
            coverage than the recipe requires, or a copy that computes something other than the model.

    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import Recipe, convert
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> prepared = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> torch.equal(convert(prepared)(x), prepared(x))
        True
    """
    _check(model, recipe)
    check_folding(fold_batch_norm, equalize)
    check_group(process_group)
    given, model = model, copied(model, "prepare")
    if calibration_data is None and not (fold_batch_norm or equalize or recipe.needs_data):
        found = _prepare_layers(model, recipe)
    else:
        options = (fold_batch_norm, equalize, given if check else None, process_group, verbose)
        found = _prepare_graph(model, recipe, calibration_data, *options)
    gone = [norm.module for each in model.modules() if (norm := vars(each).get("folded_norm")) is not None]
    gone = [module for module in gone if is_standard(module)]
    runtime = any(isinstance(module, QuantizedCalls) and module not in gone for module in model.modules())
    vars(next(_quantizing(model), model))[_SUMMARY] = replace(found, runtime=_PACKAGE if runtime else "")
    hold(model)
    if verbose:
        print(summary(model))
    return model


def summary(model: nn.Module, data: Any = None) -> Summary:
    """What ``prepare`` did to each layer, and the accumulator bits that it needs now.

    Args:
        model: A model from ``prepare``.
        data: Batches as for ``prepare``, to show the accumulator bits that they need beside those of the worst case.

    Raises:
        QuantizerError: the model does not come from ``prepare``, or does not take the data.

    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import Recipe
        >>> network, x = nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU()), torch.arange(8.0).reshape(2, 4)
        >>> _ = nn.init.ones_(network[0].weight)
        >>> model = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> for row in summary(model, [x]).rows:
        ...     print(f"{row.layer}: {row.reason}")
        input: default
        0: default; output: left to 1; sums of up to 17 bits, 17 seen
        1: default
    """
    found = find_summary(model)
    if found is None:
        raise invalid("summary", "model", "one that prepare made", type(model).__name__, "prepare it first")
    placed = quantizers_of(model)
    with watched_sums(placed if data is not None else ()) as seen:
        for _ in run_on(model, data, "summary") if data is not None else ():
            pass
    return found.with_accumulators(accumulator_bits(placed), seen)


def find_summary(model: nn.Module) -> Summary | None:
    """The same, or None."""
    for module in (*_quantizing(model), model):
        if _SUMMARY in vars(module):
            return vars(module)[_SUMMARY]
    return None


def _check(model: Any, recipe: Any) -> None:
    if not isinstance(model, nn.Module):
        raise invalid("prepare", "model", "a torch.nn.Module", model, "pass the network itself")
    if not isinstance(recipe, Recipe):
        advice = "load one with Recipe.from_file, or take one of Recipe.presets()"
        raise invalid("prepare", "recipe", "a Recipe", recipe, advice)
    if next(_quantizing(model), None) is not None:
        advice = "pass the float model"
        raise invalid("prepare", "model", "one without quantizers", type(model).__name__, advice)
    if (
        any(each.is_meta for each in model.parameters())
        or torch.empty(0).is_meta
        or type(torch.empty(0)) is not torch.Tensor
    ):
        advice = "load its weights first, and leave FakeTensorMode and torch.device('meta')"
        raise invalid("prepare", "model", "one whose weights have values", type(model).__name__, advice)
    if not model._modules and model._parameters:
        advice = "put the layer into torch.nn.Sequential"
        raise invalid("prepare", "model", "a network that holds layers", type(model).__name__, advice)


def _quantizing(model: nn.Module) -> Iterator[nn.Module]:
    kinds = (PytorchTrainableQuantizationWrapper, PytorchTrainableActivationQuantizationHolder)
    return (module for module in model.modules() if isinstance(module, kinds))


def _prepare_layers(model: nn.Module, recipe: Recipe) -> Summary:
    """Without data: weights of layers alone, in place."""
    graph = layers_alone(model)

    def values(position: int, weight: Weight) -> np.ndarray:
        return _values(getattr(model.get_submodule(graph[position].layer), weight.name))

    settled, found = settle(graph, recipe, BasePytorchTrainableQuantizer, values, lambda positions: {})
    wrap(model, {operation.layer: each.weights for operation, each in zip(graph, settled, strict=True)})
    return found


def _prepare_graph(
    model: nn.Module,
    recipe: Recipe,
    data: Any,
    fold: bool | str,
    equalizes: bool,
    compare_with: nn.Module | None,
    process_group: Any,
    verbose: bool,
) -> Summary:
    """With data: prepare everything that a run of the model on the first batch shows, in place."""
    (batch, *further), data = first_batches(data, BATCHES, "prepare", "calibration_data")
    runs = _Runs.of(model, batch)
    recorded = build(runs.evaluation, model)
    folds = fold_batch_norms(model, recorded) if fold else {}
    folded = {path: each.path for path, each in folds.items()}
    later = folds if fold == AT_CONVERSION else {}
    if fold is True:
        for each in folds.values():
            close(each.norm)
    if folded:
        runs = _Runs.of(model, batch, folded)
        recorded = build(runs.evaluation, model)
    equalized = equalize_layers(model, recorded) if equalizes else {}
    if equalized:
        runs = _Runs.of(model, batch, folded)
        recorded = build(runs.evaluation, model)
    placed = Placed(model, recorded, runs.evaluation, runs.training, later)

    def values(position: int, weight: Weight) -> np.ndarray:
        found = recorded.nodes[position].weights.values()
        return _values(next(tensor for each, tensor, _ in found if each is weight))

    def observe(positions: Sequence[int]) -> dict[int, Observation]:
        return merged(_observe(model, placed, positions, data, verbose), process_group)

    settled, found = settle(recorded.graph, recipe, BasePytorchTrainableQuantizer, values, observe)
    corrected = [at for at, each in enumerate(settled) if each.corrects_bias]
    float_one = copied(model, "prepare") if corrected else model
    reference = Placed(float_one, recorded, runs.evaluation, runs.training) if corrected else placed
    placed.apply(settled)
    if compare_with is not None:
        check_prepared(compare_with, model, batch, set(folded.values()))
    if corrected:
        correct_biases(reference, placed, corrected, [batch, *further], process_group)
    found = replace(found, costs=tuple(replace(each, work=each.work // _examples(batch)) for each in found.costs))
    found = found.with_norms(folded, bool(later)) if fold else found
    return found.with_equalized(equalized)


def _examples(batch: Any) -> int:
    """How many examples there are in a batch, along the first axis of its first tensor."""
    shapes = (leaf.shape for leaf in _pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim)
    return max(1, next(shapes, (1,))[0])


@dataclass(frozen=True)
class _Runs:
    """A model's runs on a batch, in evaluation and, where it takes the batch then too, in training."""

    evaluation: Recording
    training: Recording | None

    @classmethod
    def of(cls, model: nn.Module, batch: Any, folded: Mapping[str, str] | None = None) -> _Runs:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with batch_explained("prepare", "calibration_data", batch):
                evaluation = cls._run(model, batch, folded or {}, False)
            try:
                training = cls._run(model, batch, folded or {}, True)
            except Exception:  # some models want targets in training, or larger batches
                training = None
        return cls(evaluation, training)

    @staticmethod
    def _run(model: nn.Module, batch: Any, folded: Mapping[str, str], training: bool) -> Recording:
        positional, keywords = arguments_of(model, batch)
        names = names_of_tensors(model, positional, keywords)
        probe = copied(model, "prepare")  # keeps what the forward changes
        with modes_kept(probe):
            return record(probe.train(training), positional, keywords, names, folded)


def _observe(
    model: nn.Module, placed: Placed, positions: Sequence[int], data: Any, verbose: bool
) -> dict[int, Observation]:
    observers = {position: Observer() for position in positions}
    placed.watch(observers)
    try:
        for _ in run_on(model, data, "prepare", "calibration_data", verbose, MAX_BATCHES):
            pass
    finally:
        placed.leave()
    return {position: observer.seen for position, observer in observers.items()}


def _values(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
