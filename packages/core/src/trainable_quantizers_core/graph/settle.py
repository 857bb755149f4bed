"""From a graph and a recipe to quantizers and a summary, the same for every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainable_quantizers_core.calibration.initial_parameters import (
    activation_parameters,
    threshold_within,
    weights_parameters,
)
from trainable_quantizers_core.calibration.observation import NOT_FLOATING, UNBOUNDED, Observation
from trainable_quantizers_core.enums import BiasGrid, Granularity
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.costs import costs_of
from trainable_quantizers_core.graph.coverage import Coverage, coverage
from trainable_quantizers_core.graph.operation import MULTIPLYING, ModelGraph, Operation, Weight
from trainable_quantizers_core.graph.placement import Place, place
from trainable_quantizers_core.graph.summary import Summary, SummaryRow, scheme_in_words
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid, is_power_of_two
from trainable_quantizers_core.recipe.plan import Layer, LayerPlan
from trainable_quantizers_core.recipe.recipe import Recipe
from trainable_quantizers_core.recipe.schemes import WeightsScheme

WeightValues = Callable[[int, Weight], np.ndarray]
Observe = Callable[[Sequence[int]], Mapping[int, Observation]]


@dataclass
class Settled:
    """The quantizers of one operation.

    Args:
        weights: By name of the weight; operations that share one share its quantizer.
        output: That of its result, if it has one.
        corrects_bias: Whether its bias is to compensate for the mean error.
        accumulator: Of its sums: where its bias lies, and its limit; None for a bias in float and no limit.
    """

    weights: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    corrects_bias: bool = False
    accumulator: AccumulatorGrid | None = None


def settle(
    graph: ModelGraph, recipe: Recipe, base: type, weight_values: WeightValues, observe: Observe
) -> tuple[tuple[Settled, ...], Summary]:
    """The quantizers of each operation, with parameters from data, and what a user should read about it.

    Args:
        graph: The model.
        recipe: States what is quantized, and how.
        base: The base class of the framework's trainable quantizers.
        weight_values: Gives the values of a weight of the operation at a position.
        observe: Runs the calibration data, if there are positions to observe the results of.

    Raises:
        QuantizerError: a rule that matches nothing, nothing to quantize, or less coverage than the recipe requires.
    """
    places = place(graph)
    plans = recipe.plan([_as_layer(operation, each) for operation, each in zip(graph, places, strict=True)])
    weights = _weights(graph, plans, base, weight_values)
    wanted = [position for position, plan in enumerate(plans) if plan.activations is not None]
    seen = observe(wanted) if wanted else {}
    settled, exempt = [Settled(quantizers) for quantizers, _, _ in weights], set()
    in_words = [""] * len(plans)
    for position, plan in enumerate(plans):
        _, findings, notes = weights[position]
        observation = seen.get(position)
        if plan.activations is not None and observation is not None:
            if observation.left_in_float:
                notes.append(f"output: {observation.left_in_float}")
                exempt |= {position} if observation.left_in_float == UNBOUNDED else set()
            else:
                measured = activation_parameters(observation.statistics, plan.activations)
                findings += measured.findings
                settled[position].output = plan.activations.quantizer(plan.activations.config(measured.params), base)
                in_words[position] = scheme_in_words(plan.activations)
    _settle_sums(graph, plans, settled, [notes for _, _, notes in weights], weight_values)
    rows = [
        _row(graph[at], plans[at], places[at], quantizers, in_words[at], notes, findings)
        for at, (quantizers, findings, notes) in enumerate(weights)
    ]
    complete = {at: len(each.weights) == len(graph[at].weights) for at, each in enumerate(settled)}
    found = coverage(
        graph,
        places,
        complete,
        {at: each.output is not None for at, each in enumerate(settled)},
        exempt=frozenset(exempt),
    )
    _check_coverage(recipe, found)
    costs = costs_of(
        graph,
        [each.weights for each in settled],
        [each.output is not None for each in settled],
        lambda position, weight: weight_values(position, weight).size,
    )
    return tuple(settled), Summary(tuple(row for row in rows if row is not None), found, costs=costs)


def _settle_sums(
    graph: ModelGraph,
    plans: Sequence[LayerPlan],
    settled: Sequence[Settled],
    notes: Sequence[list[str]],
    values: WeightValues,
) -> None:
    """Decide which biases compensate for the mean error, and which layers have accumulators with a grid or a limit."""
    calls: dict[str, list[int]] = {}
    for position, operation in enumerate(graph):
        calls.setdefault(operation.layer or f"{operation.name} alone", []).append(position)
    for positions in calls.values():
        first, *further = positions
        scheme, biased = plans[first].weights, bool(graph[first].layer and graph[first].bias)
        if scheme is None or not settled[first].weights:
            continue
        if scheme.bias_correction and biased and not further:  # one bias cannot serve two errors
            settled[first].corrects_bias = True
            notes[first].append("bias corrected")
        if graph[first].kind not in MULTIPLYING or scheme.bias is BiasGrid.FLOAT:
            continue
        quantizers = [*settled[first].weights.values()]
        inputs = [each for at in positions for each in _grids_read(graph, settled, at)]
        powers = len(quantizers) == 1 and is_power_of_two(quantizers[0])
        if not graph[first].layer:
            missing = "no layer holds the weight"
        elif not powers:
            missing = "the weights are not on one power-of-two grid"
        elif not inputs or not all(map(is_power_of_two, inputs)):
            missing = "the input is not on a power-of-two grid"
        else:
            weight = next(each for each in graph[first].weights if each.name in settled[first].weights)
            accumulator = AccumulatorGrid(inputs, scheme.accumulator_bits, weight.axis, biased)
            settled[first].accumulator = accumulator
            if accumulator.bits is not None:
                quantizers[0].start_at(threshold_within(values(first, weight), quantizers[0], accumulator))
            continue
        lost = ["bias in float"] if biased and powers else []
        lost += ["sums without a limit"] if scheme.accumulator_bits is not None else []
        notes[first] += [f"{' and '.join(lost)}: {missing}"] if lost else []


def _grids(graph: ModelGraph, settled: Sequence[Settled], position: int) -> list[Any]:
    """The quantizers on whose grids a result lies; None among them where it lies on none."""
    if settled[position].output is not None:
        return [settled[position].output]
    if graph[position].kind != "other" or not graph[position].inputs:
        return [None]
    return _grids_read(graph, settled, position)


def _grids_read(graph: ModelGraph, settled: Sequence[Settled], position: int) -> list[Any]:
    sources = (*graph[position].inputs, *graph[position].later)
    return [each for source in sources for each in _grids(graph, settled, source)]


def _as_layer(operation: Operation, where: Place) -> Layer:
    names = tuple(weight.name for weight in operation.weights)
    return Layer(operation.name, (operation.kind, operation.type, *operation.within), names, where.quantized)


def _weights(
    graph: ModelGraph, plans: Sequence[LayerPlan], base: type, values: WeightValues
) -> list[tuple[dict[str, Any], list[str], list[str]]]:
    """Quantizers, findings and notes of each operation; of a shared weight, the operation that multiplies decides."""
    owners = _owners(graph)
    made: dict[str, tuple[Any, tuple[str, ...]]] = {}

    def quantizer_of(position: int, weight: Weight) -> tuple[Any, tuple[str, ...]]:
        scheme = plans[position].weights
        if scheme is None:
            return None, ()
        return _calibrated(per_tensor(scheme, weight), base, values(position, weight), weight.axis)

    found = []
    for position, operation in enumerate(graph):
        quantizers: dict[str, Any] = {}
        findings: list[str] = []
        notes: list[str] = []
        for weight in operation.weights:
            owner = owners.get(weight.shared, position) if weight.shared else position
            if not weight.shared:
                quantizer, noticed = quantizer_of(position, weight)
            else:
                if weight.shared not in made:
                    theirs = next(each for each in graph[owner].weights if each.shared == weight.shared)
                    made[weight.shared] = quantizer_of(owner, theirs)
                quantizer, noticed = made[weight.shared]
                if owner != position:
                    noticed = ()
                    notes.append(f"shares its weight and weight quantizer with {graph[owner].name}")
            if quantizer is not None:
                quantizers[weight.name] = quantizer
                findings += noticed
        found.append((quantizers, findings, notes))
    return found


def _owners(graph: ModelGraph) -> dict[str, int]:
    """The operation that decides over each shared weight: the first that multiplies by it, or else the first."""
    owners: dict[str, int] = {}
    for position, operation in enumerate(graph):
        for weight in operation.weights:
            first = owners.setdefault(weight.shared, position) if weight.shared else position
            if operation.kind in MULTIPLYING and graph[first].kind not in MULTIPLYING:
                owners[weight.shared] = position
    return owners


def _calibrated(scheme: WeightsScheme, base: type, array: np.ndarray, axis: int | None) -> tuple[Any, tuple[str, ...]]:
    """The quantizer of a weight, and findings about its values."""
    each = {
        bits: weights_parameters(array, replace(scheme, num_bits=bits), axis)
        for bits in scheme.bits_candidates or (scheme.num_bits,)
    }
    candidates = {bits: found.params for bits, found in each.items()} if scheme.bits_candidates else None
    config = scheme.config(each[scheme.num_bits].params, axis, candidates)
    return scheme.quantizer(config, base), each[scheme.num_bits].findings


def per_tensor(scheme: WeightsScheme, weight: Weight) -> WeightsScheme:
    """The scheme as a weight can have it: without an axis of channels, one range for the whole tensor."""
    return scheme if weight.axis is not None else replace(scheme, granularity=Granularity.PER_TENSOR)


def _row(
    operation: Operation,
    plan: LayerPlan,
    where: Place,
    quantizers: Mapping[str, Any],
    activations: str,
    notes: Sequence[str],
    findings: Sequence[str],
) -> SummaryRow | None:
    if operation.kind == "constant" and not activations and not notes:
        return None
    if operation.kind == "other" and not operation.layer and not operation.note:
        return None  # a function that moves values
    concerned = bool(operation.weights) or where.quantized
    reasons = [plan.reason if concerned else "", operation.note, operation.inside]
    reasons += [NOT_FLOATING] if operation.kind == "input" and not operation.floating else []
    reasons += [f"output: left to {where.left_to}"] if where.left_to else []
    text = "; ".join(filter(None, [*reasons, *notes])) or "nothing to quantize"
    weights = scheme_in_words(plan.weights) if quantizers and plan.weights is not None else ""
    return SummaryRow(operation.name, operation.type, weights, activations, text, tuple(findings))


def _check_coverage(recipe: Recipe, found: Coverage) -> None:
    if recipe.require_coverage is not None and found.share < recipe.require_coverage:
        name = f"Recipe {recipe.name!r}" if recipe.name else "Recipe"
        missing = ", ".join(found.float_operations)
        advice = f"quantize what is missing by rules, or require less; in float: {missing}"
        raise invalid(name, "coverage", f"at least {recipe.require_coverage}", round(found.share, 4), advice)
