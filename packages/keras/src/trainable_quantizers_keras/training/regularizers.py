"""What a loss asks of soft rounding and of learned widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from trainable_quantizers_core import Budget
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.learned_bits import LearnedBits

from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.prepare import find_summary
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer


def rounding_regularizer(model: Any) -> tf.Tensor:
    """Σ (1 - |2h - 1|^β) over all weights that learn their rounding: it pulls h of soft rounding to 0 or 1.

    β goes from 20 at ``start`` of the schedule to 2 at the end of its ``ramp``; before and after the term is 0. Its
    gradient goes to α alone. For ``fit``, add it in a loss function that knows the model.

    Raises:
        QuantizerError: no quantizer of the training method AdaRound with a schedule.

    Source: Nagel et al. 2020, arXiv 2004.10568.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe({"num_bits": 2, "training_method": "AdaRound", "schedule": {"ramp": 100}})
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, recipe, verbose=False)
        >>> mse = keras.losses.MeanSquaredError()
        >>> model.compile("adam", lambda y, given: mse(y, given) + 0.01 * rounding_regularizer(model))
        >>> _ = model.fit(tf.ones((8, 4)), tf.ones((8, 2)), verbose=0)
    """
    soft = [
        quantizer.rounding_regularizer(weight)
        for weight, quantizer in _quantized_weights(model)
        if quantizer.gradient.soft_rounding and quantizer.schedule is not None
    ]
    if not soft:
        advice = "give weights training_method = 'AdaRound' and a schedule with a ramp"
        given = getattr(model, "name", model)
        raise invalid("rounding_regularizer", "model", "one that learns to round", given, advice)
    return tf.add_n(soft)


def budget_regularizer(model: Any, budget: Budget) -> tf.Tensor:
    """max(0, Σ cost/budget - 1): how far the widths that weights learn exceed a budget, to be expected.

    A layer costs Σ p_k·cost(b_k) over its candidates, with p = softmax(a/τ) of the present step; all others cost what
    they do. Its gradient goes to the attention alone. For ``fit``, add it in a loss function that knows the model.

    Args:
        model: What ``prepare`` made.
        budget: Bytes, bit operations of one example, or latency. One that cannot be kept pulls all widths down.

    Raises:
        QuantizerError: no weights of the training method DQA, or a table of latencies that does not fit.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe({"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"ramp": 100}})
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
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


def _quantized_weights(model: Any) -> Iterator[tuple[Any, KerasRangeQuantizer]]:
    """Each weight of a layer with its quantizer."""
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        if isinstance(layer, KerasTrainableQuantizationWrapper):
            for _, weight, quantizer in layer.get_weights_vars():
                if isinstance(quantizer, KerasRangeQuantizer) and quantizer.enabled:
                    yield weight, quantizer
