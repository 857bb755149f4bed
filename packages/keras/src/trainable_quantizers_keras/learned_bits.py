"""Learned bit widths: fits them to a budget, and turns them into a recipe."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core import Budget, Recipe
from trainable_quantizers_core.learned_bits import LearnedBits

from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.prepare import find_summary


def fit_budget(model: Any, budget: Budget) -> float:
    """Set learned widths to those with the most attention that fit a budget; returns the cost with these widths.

    They minimize Σ over the layers of (largest a - a of the width); if the widths in use fit, they stay. Call it near
    the end of the schedule or after it, and train on from there. Widths of other weights and of activations stay.

    Args:
        model: A model from ``prepare`` whose weights learn their widths.
        budget: The maximum cost of the network.

    Raises:
        QuantizerError: no weights of the training method DQA, the narrowest widths exceed the budget, a table of
            latencies that does not fit, or bit operations of a subclassed model that was prepared without data: only
            a run shows how often its weights are multiplied.

    Examples:
        >>> recipe = Recipe({"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"ramp": 100}})
        >>> from trainable_quantizers_keras import prepare
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, recipe, verbose=False)
        >>> fit_budget(model, Budget(weight_bytes=5))
        4.0
    """
    return LearnedBits.of("fit_budget", find_summary(model), quantizers_of(model)).fit(budget)


def learned_recipe(model: Any, recipe: Recipe) -> Recipe:
    """The recipe with rules that give each layer the width in use, trained by LSQ instead of DQA.

    It is a recipe like any other: write it to a file, prepare a model with it, train. If the weights of one layer
    use several widths, it has the widest.

    Args:
        model: The model that ``prepare`` made with ``recipe``, after its widths were learned.
        recipe: The recipe of the model. Where LSQ replaces the training method DQA, the schedule is dropped.

    Raises:
        QuantizerError: no weights of the training method DQA, or no recipe.

    Examples:
        >>> recipe = Recipe({"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"ramp": 100}})
        >>> from trainable_quantizers_keras import prepare
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, recipe, verbose=False)
        >>> found = learned_recipe(model, recipe)
        >>> found.weights.training_method.value, [(rule.name, rule.weights["num_bits"]) for rule in found.rules]
        ('LSQ', [('head', 8)])
    """
    return LearnedBits.of("learned_recipe", find_summary(model), quantizers_of(model)).recipe(recipe)
