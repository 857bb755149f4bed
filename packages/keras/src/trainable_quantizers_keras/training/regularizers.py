"""Regularizers for weights: hard rounding, bit widths within a budget, and values near their levels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from trainable_quantizers_core import Budget
from trainable_quantizers_core.learned_bits import LearnedBits
from trainable_quantizers_core.training.regularizers import damping_terms, rounding_terms

from trainable_quantizers_keras.inventory import quantized_weights, quantizers_of
from trainable_quantizers_keras.prepare import find_summary


def rounding_regularizer(model: Any) -> tf.Tensor:
    """Σ (1 - |2h - 1|^β) over all weights that learn their rounding: it pulls h of soft rounding to 0 or 1.

    β goes from 20 at ``start`` of the schedule to 2 at the end of its ``ramp``; before and after the term is 0. Its
    gradient goes to α alone. For ``fit``, add it in a loss function that knows the model.

    Args:
        model: A model from ``prepare`` whose weights learn their rounding.

    Raises:
        QuantizerError: no quantizer of the training method AdaRound with a schedule.

    Source: Nagel et al. 2020, arXiv 2004.10568.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe({"num_bits": 2, "training_method": "AdaRound", "schedule": {"ramp": 100}})
        >>> network = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)])
        >>> model = prepare(network, recipe, verbose=False)
        >>> mse = tf.keras.losses.MeanSquaredError()
        >>> model.compile("adam", lambda y, given: mse(y, given) + 0.01 * rounding_regularizer(model))
        >>> _ = model.fit(tf.ones((8, 4)), tf.ones((8, 2)), verbose=0)
    """
    return tf.add_n(rounding_terms(quantized_weights(model), getattr(model, "name", model)))


def budget_regularizer(model: Any, budget: Budget) -> tf.Tensor:
    """max(0, Σ cost/budget - 1): by how much the expected cost of learned widths exceeds a budget.

    A layer costs Σ p_k·cost(b_k) over its candidates, with p = softmax(a/τ) of the present step; all others have a
    fixed cost. Its gradient goes to the attention alone. For ``fit``, add it in a loss function that knows the model.

    Args:
        model: A model from ``prepare``.
        budget: Bytes, bit operations of one example, or latency. One that cannot be met pulls all widths down.

    Raises:
        QuantizerError: no weights of the training method DQA, or a table of latencies that does not fit.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe({"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"ramp": 100}})
        >>> network = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, recipe, verbose=False)
        >>> round(float(budget_regularizer(model, Budget(weight_bytes=4))), 4)
        0.1667
    """
    learned = LearnedBits.of("budget_regularizer", find_summary(model), quantizers_of(model))
    expected, costs = learned.costs(budget)
    for unit, quantizers in learned.learning.items():
        shares = tf.reduce_mean([each.shares() for each in quantizers], axis=0)
        expected = expected + tf.reduce_sum(shares * costs[unit])
    return tf.nn.relu(expected - 1)


def oscillation_damping(model: Any) -> tf.Tensor:
    """Σ (y - clip(x, min', max'))² over all weights x of layers, quantized to y: it pulls weights to their levels.

    dL/dx = 2·(x - y) inside the range, else 0; no gradient reaches thresholds. Frozen weights add 0, weights that
    learn their rounding are left out. Add it to the loss with a factor that grows from 0; for ``fit``, in a loss
    function that knows the model.

    Args:
        model: A model from ``prepare``, or any model that holds wrappers with trainable quantizers.

    Raises:
        QuantizerError: no layer has quantized weights, or all learn their rounding.

    Source: Nagel et al. 2022, arXiv 2203.11086.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> network = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe({"num_bits": 2}), verbose=False)
        >>> mse = tf.keras.losses.MeanSquaredError()
        >>> model.compile("adam", lambda y, given: mse(y, given) + 1e-3 * oscillation_damping(model))
        >>> _ = model.fit(tf.ones((8, 4)), tf.ones((8, 2)), verbose=0)
    """
    return tf.add_n(damping_terms(quantized_weights(model), getattr(model, "name", model)))
