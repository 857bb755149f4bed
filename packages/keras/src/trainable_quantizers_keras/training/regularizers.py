"""Terms of a loss that look at weights and their levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import full_precision, keras
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer


def rounding_regularizer(model: Any) -> tf.Tensor:
    """Σ (1 - |2h - 1|^β) over all weights that learn their rounding: it pulls h of soft rounding to 0 or 1.

    β goes from 20 at ``start`` of the schedule to 2 at the end of its ``ramp``; before and after the term is 0. Its
    gradient goes to α alone. For ``fit``, add it in a loss function that knows the model.

    Raises:
        QuantizerError: no quantizer of the training method AdaRound with a schedule.

    Source: Nagel et al. 2020, arXiv 2004.10568.

    Example:
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


def dampening(model: Any) -> tf.Tensor:
    """Σ (w - q(w))² over all quantized weights inside their ranges: it holds weights at the middle of their levels.

    At few bits a weight that the loss wants between two levels jumps from one to the other. Add the term with a factor
    that grows over training, from 0 to about 1e-3 and more at the end. Its gradient goes to weights alone:
    2·(w - q(w)), and 0 outside the range.

    Raises:
        QuantizerError: no quantized weights.

    Source: Nagel et al. 2022, arXiv 2203.11086.

    Example:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe({"num_bits": 2}), verbose=False)
        >>> mse = keras.losses.MeanSquaredError()
        >>> model.compile("adam", lambda y, given: mse(y, given) + 1e-3 * dampening(model))
        >>> _ = model.fit(tf.ones((8, 4)), tf.ones((8, 2)), verbose=0)
    """
    terms = [_distance(weight, quantizer) for weight, quantizer in _quantized_weights(model)]
    if not terms:
        advice = "pass what prepare returned, with weights among what it quantized"
        given = getattr(model, "name", model)
        raise invalid("dampening", "model", "one with quantized weights", given, advice)
    return tf.add_n(terms)


def _distance(weight: Any, quantizer: KerasRangeQuantizer) -> tf.Tensor:
    weight = tf.cast(full_precision(weight), tf.float32)
    level = tf.stop_gradient(quantizer(weight, False))
    return tf.reduce_sum(tf.where(quantizer.inside(weight), weight - level, 0.0) ** 2)


def _quantized_weights(model: Any) -> Iterator[tuple[Any, KerasRangeQuantizer]]:
    """Each weight of a layer with its quantizer."""
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        if isinstance(layer, KerasTrainableQuantizationWrapper):
            for _, weight, quantizer in layer.get_weights_vars():
                if isinstance(quantizer, KerasRangeQuantizer) and quantizer.enabled:
                    yield weight, quantizer
