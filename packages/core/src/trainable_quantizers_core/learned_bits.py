"""Learned bit widths: their cost, and the recipe that fixes them; shared by both frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainable_quantizers_core.constants import ATTENTION
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.bit_widths import Budget, Unit, choose, cost_of
from trainable_quantizers_core.graph.costs import OperationCost
from trainable_quantizers_core.graph.summary import Summary
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.recipe.recipe import Recipe
from trainable_quantizers_core.search_bits import units_of, with_widths


@dataclass(frozen=True)
class LearnedBits:
    """A prepared model as its widths: those that are learned, and all others.

    Args:
        owner: The function that asks, for messages.
        operations: The costs of the model's operations.
        learning: The quantizers of the weights of each operation that learn their width.
        others: The widths of all other weights and of activations.
    """

    owner: str
    operations: Sequence[OperationCost]
    learning: Mapping[Unit, list[CandidatesQuantizer]] = field(default_factory=dict)
    others: Mapping[Unit, int] = field(default_factory=dict)

    @classmethod
    def of(cls, owner: str, summary: Summary | None, placed: Sequence[PlacedQuantizer]) -> LearnedBits:
        """The learned bits of a model.

        Raises:
            QuantizerError: no model that ``prepare`` made, or nothing in it learns its width.
        """
        operations = summary.costs if summary else ()
        units, others = units_of(operations, placed, True), {}
        learning: dict[Unit, list[CandidatesQuantizer]] = {}
        for each in placed:
            unit = units.get((each.layer, each.attribute))
            if isinstance(each.quantizer, CandidatesQuantizer):
                if unit is None:
                    rule, advice = "known to prepare", "pass the model that prepare returned, not loaded from a file"
                    raise invalid(owner, f"{each.layer}.{each.attribute}", rule, "a quantizer alone", advice)
                learning.setdefault(unit, []).append(each.quantizer)
            elif unit is not None:
                others[unit] = each.quantizer.specification.grid.num_bits
        if not learning:
            advice = "give weights training_method = 'DQA' and bits_candidates, in the recipe"
            raise invalid(owner, "model", "one that learns widths", "none of its quantizers", advice)
        return cls(owner, operations, learning, others)

    def costs(self, budget: Budget) -> tuple[float, dict[Unit, list[float]]]:
        """The cost of the rest of the network, and of each unit at each of its widths, as shares of the budget.

        Raises:
            QuantizerError: no budget, a table of latencies that does not fit, or bit operations of a model that was
                prepared without data, where shapes alone do not show how often weights are multiplied.
        """
        self._check(budget)
        concerned: dict[Unit, list[OperationCost]] = {unit: [] for unit in self.learning}
        rest = [each for each in self.operations if ("weights", each.weights) not in concerned]
        for each in self.operations:
            concerned.get(("weights", each.weights), []).append(each)
        found = {
            unit: [self._cost(concerned[unit], budget, {**self.others, unit: bits}) for bits in quantizers[0].widths]
            for unit, quantizers in self.learning.items()
        }
        return self._cost(rest, budget, self.others), found

    def fit(self, budget: Budget) -> float:
        """Put the widths with the most attention that fit the budget in use; what the network costs with them.

        Raises:
            QuantizerError: the narrowest widths cost more than the budget, or see ``costs``.
        """
        self.costs(budget)
        attention = {unit: [each.read_variable(ATTENTION) for each in of] for unit, of in self.learning.items()}
        lacks = {unit: np.mean([each.max() - each for each in of], axis=0) for unit, of in attention.items()}
        errors: dict[Unit, dict[int, float]] = {unit: {bits: 0.0} for unit, bits in self.others.items()}
        for unit, (first, *_) in self.learning.items():
            order = 1e-6 * np.arange(len(first.widths))  # ties go to the first, as in the quantizer
            errors[unit] = dict(zip(first.widths, (lacks[unit] + order).tolist(), strict=True))
        chosen = choose(errors, self.operations, budget)
        for unit, quantizers in self.learning.items():
            for quantizer in quantizers:
                quantizer.choose(chosen[unit])
        return cost_of(self.operations, chosen, budget)

    def recipe(self, recipe: Any) -> Recipe:
        """The recipe with the widths in use, and LSQ in place of DQA.

        Raises:
            QuantizerError: no recipe.
        """
        if not isinstance(recipe, Recipe):
            raise invalid(self.owner, "recipe", "a Recipe", recipe, "pass the one that the model was prepared by")
        widths = {
            unit: max(each.specification.grid.num_bits for each in quantizers)
            for unit, quantizers in self.learning.items()
        }
        return with_widths(_of_one_width(recipe), self.operations, widths)

    def _check(self, budget: Any) -> None:
        if not isinstance(budget, Budget):
            raise invalid(self.owner, "budget", "a Budget", budget, "write Budget(weight_bytes=20_000), say")
        budget.check_table(self.operations, ())
        if budget.counts == "bit_operations" and not any(each.work for each in self.operations):
            advice = "only a run of the model shows how often its weights are multiplied"
            raise invalid(self.owner, "model", "prepared with data, for bit operations", "one without", advice)

    def _cost(self, operations: Sequence[OperationCost], budget: Budget, bits: Mapping[Unit, int]) -> float:
        try:
            return cost_of(operations, bits, budget) / budget.amount
        except KeyError as error:
            rule, advice = f"one with a time for {error.args[0]}", "measure it, or learn other widths"
            raise invalid("Budget", "latency_table", rule, dict(budget.latency_table), advice) from error


def _of_one_width(recipe: Recipe) -> Recipe:
    """The recipe without learned widths: LSQ from the first step on where there was DQA."""
    weights = recipe.weights
    learned = weights is not None and weights.training_method is TrainingMethod.DQA
    if weights is not None and learned:
        weights = replace(weights, training_method=TrainingMethod.LSQ, bits_candidates=None, schedule=None)
    rules = [replace(rule, weights=_fields_of_one_width(rule.weights, learned)) for rule in recipe.rules]
    return replace(recipe, weights=weights, rules=tuple(rules))


def _fields_of_one_width(given: Any, learned: bool) -> Any:
    if not given:
        return given
    method = given.get("training_method", TrainingMethod.DQA if learned else None)
    dropped = {"bits_candidates"} | ({"training_method", "schedule"} if method is TrainingMethod.DQA else set())
    return {name: value for name, value in given.items() if name not in dropped}
