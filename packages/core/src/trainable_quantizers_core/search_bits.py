"""The search for a recipe whose bit widths fit a budget; shared by both frameworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log10
from typing import Any

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.bit_widths import Budget, Unit, choose, cost_of
from trainable_quantizers_core.graph.costs import OperationCost
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.quantizer.grid import MAX_BITS, MIN_BITS
from trainable_quantizers_core.recipe.plan import LayerRule
from trainable_quantizers_core.recipe.recipe import Recipe
from trainable_quantizers_core.report.sensitivity import Sensitivity, in_columns

OWNER = "search_bits"


@dataclass(frozen=True)
class BitWidths:
    """The outcome of a search; ``print`` it.

    Args:
        errors: Of weights and activations, at each width, alone: Σ(y - y_float)²/Σy_float² of the outputs.
        chosen: Their widths.
        counts: The amount that the budget limits, by name.
        budget: Its maximum.
        cost: The cost of the chosen widths.
        error: The error of the outputs with all quantizers, at the chosen widths.
    """

    errors: Mapping[Unit, Mapping[int, float]]
    chosen: Mapping[Unit, int]
    counts: str
    budget: float
    cost: float
    error: float

    def __str__(self) -> str:
        widths = sorted({width for table in self.errors.values() for width in table})
        rows = [("layer", "of", *(f"{width} bits" for width in widths), "chosen")]
        rows += [
            (name, target, *(_decibels(table[width]) for width in widths), str(self.chosen[target, name]))
            for (target, name), table in self.errors.items()
        ]
        used = f"{self.cost:,.6g} of {self.budget:,.6g} {self.counts.replace('_', ' ')}"
        together = f"Output SQNR of each alone, dB. All together: {_decibels(self.error)} dB, with {used}."
        return "\n".join([*in_columns(rows, 2), together])


def _decibels(error: float) -> str:
    return f"{10 * log10(1 / error) if error else inf:.1f}"


@dataclass(frozen=True)
class PreparedModel:
    """The facts of a prepared model that a search needs.

    Args:
        operations: The costs of its operations, for one example.
        placed: Its quantizers.
        sensitivity: Measures the quantizers that it is asked to.
    """

    operations: Sequence[OperationCost]
    placed: Sequence[PlacedQuantizer]
    sensitivity: Callable[[Callable[[PlacedQuantizer], bool]], Sensitivity]


def searched(
    recipe: Any, budget: Any, widths: Any, prepared: Callable[[Recipe], PreparedModel]
) -> tuple[Recipe, BitWidths]:
    """The recipe with a rule for each layer whose width changes, and the table of the search.

    Args:
        recipe: States what is quantized, and how.
        budget: Its maximum cost.
        widths: The widths to choose from.
        prepared: Prepares the model with a recipe.

    Raises:
        QuantizerError: invalid arguments, a budget that the narrowest widths exceed, a layer whose width no rule for
            its name can set, or a width that is no candidate of weights that learn theirs.
    """
    _check(recipe, budget, widths)
    widths = sorted(set(widths))
    first = prepared(recipe)
    _check_candidates(first.placed, widths)
    units = units_of(first.operations, first.placed, budget.moves_activations)
    budget.check_table(first.operations, widths)
    errors: dict[Unit, dict[int, float]] = {unit: dict.fromkeys(widths, 0.0) for unit in dict.fromkeys(units.values())}
    for width in widths:
        model = prepared(with_widths(recipe, first.operations, dict.fromkeys(errors, width)))
        found = model.sensitivity(lambda each: (each.layer, each.attribute) in units)
        for row in found.quantizers:
            errors[units[row.layer, row.attribute]][width] += row.error
    chosen = choose(errors, first.operations, budget)
    placed = {units.get((each.layer, each.attribute)): _bits(each) for each in first.placed}
    changed = {unit: width for unit, width in chosen.items() if placed[unit] != width}
    result = with_widths(recipe, first.operations, changed)
    model = prepared(result)
    for each in model.placed:
        unit = units.get((each.layer, each.attribute))
        if unit is not None and _bits(each) != chosen[unit]:
            rule = f"{chosen[unit]} bits wide by a rule for its name"
            raise invalid(OWNER, f"{each.layer}.{each.attribute}", rule, _bits(each), "leave it in float")
    error = model.sensitivity(lambda each: False).error
    cost = cost_of(first.operations, chosen, budget)
    return result, BitWidths(errors, chosen, budget.counts, budget.amount, cost, error)


def _check(recipe: Any, budget: Any, widths: Any) -> None:
    if not isinstance(recipe, Recipe):
        raise invalid(OWNER, "recipe", "a Recipe", recipe, "take one of Recipe.presets(), say")
    if not isinstance(budget, Budget):
        raise invalid(OWNER, "budget", "a Budget", budget, "write Budget(weight_bytes=20_000), say")
    numbers = isinstance(widths, Sequence) and widths and all(type(each) is int for each in widths)
    if not numbers or not all(MIN_BITS <= each <= MAX_BITS for each in widths):
        raise invalid(OWNER, "widths", f"integers in {MIN_BITS}..{MAX_BITS}", widths, "(2, 4, 8) is usual")


def _check_candidates(placed: Sequence[PlacedQuantizer], widths: Sequence[int]) -> None:
    for each in placed:
        known = sorted(each.quantizer.widths) if isinstance(each.quantizer, CandidatesQuantizer) else widths
        if not set(widths) <= set(known):
            advice = "search those, or leave the search to training_method = 'DQA' and fit_budget"
            where = f" for {each.layer}.{each.attribute}"
            raise invalid(OWNER, "widths", f"among bits_candidates, {known}", widths, advice, where)


def _bits(placed: PlacedQuantizer) -> int:
    return int(placed.quantizer.specification.grid.num_bits)


def units_of(
    operations: Sequence[OperationCost], placed: Sequence[PlacedQuantizer], activations: bool
) -> dict[tuple[str, str], Unit]:
    """The unit of each quantizer, by layer and attribute: the weights of an operation, or a tensor operations read.

    Args:
        operations: Of the model.
        placed: Its quantizers.
        activations: Whether those of activations are wanted too.
    """
    found: dict[tuple[str, str], Unit] = {}
    weights = {name: each.weights for each in reversed(operations) if each.weights for name in each.known_as}
    read = {name for each in operations for names in each.inputs for name in names}
    for each in placed:
        if each.target == "weights":
            name = weights.get(f"{each.layer}.{each.attribute}", weights.get(each.layer))
            if name is not None:
                found[each.layer, each.attribute] = ("weights", name)
        elif activations and each.layer in read:
            found[each.layer, each.attribute] = ("activations", each.layer)
    return found


def with_widths(recipe: Recipe, operations: Sequence[OperationCost], widths: Mapping[Unit, int]) -> Recipe:
    """The recipe with rules for the widths of weights and activations, by the names of their operations."""
    rules: dict[str, dict[str, Any]] = {}
    for (target, name), width in widths.items():
        readers = [each.name for each in operations if each.weights == name] if target == "weights" else [name]
        for reader in readers:
            rules.setdefault(reader, {})[target] = {"num_bits": width}
    return replace(recipe, rules=(*recipe.rules, *(LayerRule(name=name, **fields) for name, fields in rules.items())))
