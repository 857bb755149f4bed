"""Weights rounded so that each layer gives what it gave in float, without labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.training.reconstruct import STRENGTH, Reconstruction, check_biases

from trainable_quantizers_keras.calibration.batches import batches_of, run_on
from trainable_quantizers_keras.graph.watch import replaced_calls
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import full_precision, keras, stored
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.prepare import find_summary
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer

Call = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Arguments of a layer, arguments by name, and the result in float."""


def reconstruct(model: Any, data: Any, steps: int = 1000, learning_rate: float = 1e-2) -> Any:
    """Round the weights of each layer up or down as its outputs need it, in place and without labels; the model.

    Layer by layer, in the order in which they run: soft rounding (the training method AdaRound) learns from
    Σ(y - y_float)²/Σy_float² + 0.01·mean(1 - |2h - 1|^β), where y is the layer with what the quantized layers before it
    give, and y_float the same layer in the float model. The weights become values of levels, which every quantizer
    keeps: the model is ready to ``convert``, or to train on from there. A layer that does no better stays as it was.

    Args:
        model: What ``prepare`` made, with the weights of the float model, and biases that were not corrected.
        data: Batches as for ``prepare``; some hundred samples are enough. They are kept in memory, and for one layer at
            a time what it reads and gives.
        steps: Steps for each layer, each on one batch.
        learning_rate: Of Adam.

    Raises:
        QuantizerError: no layer with quantized weights, biases that were corrected, no data, or a batch that the model
            does not take.

    Source: Nagel et al. 2020, arXiv 2004.10568.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> keras.utils.set_random_seed(0)
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> model = prepare(network, Recipe({"num_bits": 2}, {"num_bits": 8}), [x], verbose=False)
        >>> before = np.mean((model(x) - network(x)) ** 2)
        >>> bool(np.mean((reconstruct(model, [x], steps=50)(x) - network(x)) ** 2) <= before)
        True
    """
    how = Reconstruction(steps, learning_rate)
    layers = model._flatten_layers() if isinstance(model, keras.Model) else ()
    every = [layer for layer in layers if isinstance(layer, KerasTrainableQuantizationWrapper)]
    wrappers = [each for each in every if _rounds(each)]
    if not wrappers:
        advice = "pass what prepare returned, with weights of layers among what it quantized"
        given = getattr(model, "name", model)
        raise invalid("reconstruct", "model", "one with quantized weights", given, advice)
    found = find_summary(model)
    check_biases(found.rows if found else ())
    batches = list(batches_of(data, "reconstruct"))
    quantizers = [each.quantizer for each in quantizers_of(model)]
    floats = [(weight, full_precision(weight)) for each in wrappers for _, weight, _ in each.get_weights_vars()]

    @contextmanager
    def in_float() -> Iterator[None]:
        rounded = [(weight, full_precision(weight)) for weight, _ in floats]
        with quantizers_set_aside(quantizers, every):
            _assign(floats)
            try:
                yield
            finally:
                _assign(rounded)

    for wrapper in _in_order(model, wrappers, batches):
        read = _seen(model, wrapper, batches)
        with in_float():
            given = _seen(model, wrapper, batches)
        calls = [(args, kwargs, result) for (args, kwargs, _), (_, _, result) in zip(read, given, strict=True)]
        _round(wrapper, calls, how)
    return model


def _rounds(wrapper: Any) -> bool:
    return not wrapper.weight_values and all(
        isinstance(each, KerasRangeQuantizer) and each.enabled for each in wrapper.weights_quantizers.values()
    )


def _assign(values: Sequence[tuple[Any, tf.Tensor]]) -> None:
    for weight, value in values:
        weight.assign(value)


def _in_order(model: Any, wrappers: Sequence[Any], batches: list[Any]) -> list[Any]:
    """The wrappers, in the order in which they are called."""
    order: dict[int, Any] = {}
    with replaced_calls(wrappers, lambda layer, call: _told(call, lambda *_: order.setdefault(id(layer), layer))):
        for _ in run_on(model, batches[:1], "reconstruct"):
            pass
    return list(order.values())


def _seen(model: Any, wrapper: Any, batches: list[Any]) -> list[Call]:
    """Arguments and results of a layer's calls."""
    calls: list[Call] = []
    with replaced_calls([wrapper], lambda layer, call: _told(call, lambda *seen: calls.append(seen))):
        for _ in run_on(model, batches, "reconstruct"):
            pass
    return calls


def _told(call: Callable[..., Any], see: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def told(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        see(args, kwargs, result)
        return result

    return told


def _round(wrapper: Any, calls: list[Call], how: Reconstruction) -> None:
    soft = {}
    for key, weight, quantizer in wrapper.get_weights_vars():
        soft[key] = twin = how.softly_rounding(quantizer, BaseKerasTrainableQuantizer)
        twin.initialize_quantization(tuple(weight.shape), "weight", keras.layers.Layer())
        for name in quantizer.specification.initial:
            twin.write_variable(name, quantizer.read_variable(name))
    weights = {key: full_precision(weight) for key, weight, _ in wrapper.get_weights_vars()}
    nearest = wrapper.get_quantized_weights()
    size = sum(int(tf.size(weight)) for weight in weights.values())
    alphas = [twin.get_quantizer_variable("alpha") for twin in soft.values()]
    optimizer = keras.optimizers.Adam(how.learning_rate)
    optimizer.build(alphas)

    @tf.function(reduce_retracing=True)
    def learn(*call: Any) -> None:
        with tf.GradientTape() as tape:
            rounded = {key: twin(weights[key], True) for key, twin in soft.items()}
            penalty = sum(twin.rounding_regularizer(weights[key]) for key, twin in soft.items())
            loss = _error(wrapper, nearest | rounded, call) + STRENGTH / size * penalty
        gradients = tape.gradient(loss, [stored(alpha) for alpha in alphas])
        optimizer.apply_gradients(zip(gradients, alphas, strict=True))
        for twin in soft.values():
            twin.advance()

    for step in range(how.steps):
        learn(*calls[step % len(calls)])
    hard = {key: twin(weights[key], False) for key, twin in soft.items()}
    before, after = (sum(_error(wrapper, given, call) for call in calls) for given in (nearest, nearest | hard))
    if after < before:
        _assign([(weight, hard[key]) for key, weight, _ in wrapper.get_weights_vars()])


def _error(wrapper: Any, weights: dict[Any, tf.Tensor], call: Any) -> tf.Tensor:
    """Σ(y - y_float)²/Σy_float² of one call with given weights."""
    args, kwargs, wanted = call
    vars(wrapper)["get_quantized_weights"] = lambda training=False: weights
    try:
        result = wrapper.call(*args, **kwargs)
    finally:
        del vars(wrapper)["get_quantized_weights"]
    pairs = [
        (tf.cast(one, tf.float32), tf.cast(other, tf.float32))
        for one, other in zip(tf.nest.flatten(result), tf.nest.flatten(wanted), strict=True)
        if isinstance(other, tf.Tensor) and other.dtype.is_floating
    ]
    power = tf.add_n([tf.reduce_sum(other**2) for _, other in pairs])
    return tf.add_n([tf.reduce_sum((one - other) ** 2) for one, other in pairs]) / (power + 1e-30)
