"""The search for a recipe whose bit widths fit a budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from trainable_quantizers_core import Budget, Recipe
from trainable_quantizers_core.search_bits import PreparedModel, searched

from trainable_quantizers_keras.calibration.batches import batches_of
from trainable_quantizers_keras.deploy.sensitivity import measured
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.prepare import prepare, summary


def search_bits(
    model: Any,
    recipe: Recipe,
    data: Any,
    budget: Budget,
    widths: Sequence[int] = (2, 4, 8),
    *,
    fold_batch_norm: bool | str = False,
    verbose: bool = True,
) -> Recipe:
    """Search, without labels, for the width of each layer within a budget; returns the recipe with rules for them.

    For each width the model is prepared with it everywhere and runs once for each quantizer, all others bypassed:
    error = Σ(y - y_float)²/Σy_float² of the outputs, in evaluation. Then the widths with the least sum of
    errors within the budget are searched: exactly, but for bit operations. The result is a recipe like any other: write
    it to a file, prepare the model with it and the same ``fold_batch_norm``, train.

    Args:
        model: The float model; stays as it is.
        recipe: States what is quantized, and how; layers that it leaves in float stay in float.
        data: Batches as for ``prepare``, for ranges and for errors; one of some tens of samples is enough.
        budget: The maximum cost of the network. For bit operations, and for latencies of pairs of widths, the search
            includes the widths of activations that operations with weights or products read.
        widths: The widths to choose from.
        fold_batch_norm: As for ``prepare``.
        verbose: Print the table of the search.

    Raises:
        QuantizerError: the narrowest widths exceed the budget, a table of latencies that does not fit, or anything that
            ``prepare`` refuses.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(2, name="head")]
        >>> network = keras.Sequential([keras.Input((4,)), *layers])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> recipe = Recipe.preset("power_of_two_8bit")
        >>> found = search_bits(network, recipe, [x], Budget(weight_bytes=32), verbose=False)
        >>> [(rule.name, rule.weights["num_bits"]) for rule in found.rules]
        [('hidden', 4)]
    """
    batches = list(batches_of(data, "search_bits"))

    def prepared(given: Recipe) -> PreparedModel:
        made = prepare(model, given, batches, fold_batch_norm=fold_batch_norm, check=False, verbose=False)
        return PreparedModel(summary(made).costs, quantizers_of(made), partial(measured, made, batches, "search_bits"))

    result, table = searched(recipe, budget, widths, prepared)
    if verbose:
        print(table)
    return result
