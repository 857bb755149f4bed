"""Reconstruction without labels: weights fitted so that each layer or block gives its float output."""

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
from trainable_quantizers_keras.graph.watch import named_layers, replaced_calls
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import full_precision, keras, stored
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.prepare import find_summary
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.training.blocks import Call, learn_block, relative_error, with_steps


def reconstruct(
    model: Any, data: Any, steps: int = 1000, learning_rate: float = 1e-2, blocks: Sequence[str] = ()
) -> Any:
    """Fit the weights of each layer or block so that it gives its float output, in place; returns the model.

    It needs no labels. Layers and blocks are fitted in execution order, each on the outputs of the quantized layers
    before it, to minimize Σ(y - y_float)²/Σy_float², where y_float is the result in the float model:

    - A layer outside of blocks rounds each weight up or down: soft rounding (the training method AdaRound) learns, with
      0.01·mean(1 - |2h - 1|^β) added. The weights become values of levels, which every quantizer keeps.
    - The layers of a block learn together: weights move further than to the next level, with the straight-through
      gradient of their quantizers, and biases move as well. Thresholds and ranges stay. One step of Adam moves a weight
      or bias by about ``learning_rate``·Δ of its channel; the rate falls to 0 along half a cosine.

    The model is ready to ``convert``, or to train on from there. A layer or block that does not improve is left as is.

    Args:
        model: A model from ``prepare``, with the weights of the float model, and biases that were not corrected.
        data: Batches as for ``prepare``; some hundred samples are enough. They are kept in memory, and for one layer or
            block at a time what it reads and gives.
        steps: Steps for each layer or block, each on one batch.
        learning_rate: Of Adam.
        blocks: Names of models inside the model that are blocks: a residual block, say, or layers that are to learn
            like one; ``inner/conv`` is a layer of a model in the model. Of a pattern such as ``block*`` each match is a
            block.

    Raises:
        QuantizerError: no layer with quantized weights, weights that are frozen, norms that fold at conversion, biases
            that were corrected, no data, a batch that the model does not take, or a block that there is not, or that a
            batch calls twice. The weights are as they were then.

    Source: Nagel et al. 2020, arXiv 2004.10568; blocks as in Li et al. 2021, arXiv 2102.05426.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> keras.utils.set_random_seed(0)
        >>> layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(8)]
        >>> block = keras.Sequential([keras.Input((8,)), *layers], name="block")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), block, keras.layers.Dense(2)])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> model = prepare(network, Recipe({"num_bits": 2}, {"num_bits": 8}), [x], verbose=False)
        >>> before = np.mean((model(x) - network(x)) ** 2)
        >>> model = reconstruct(model, [x], steps=50, blocks=["block"])
        >>> bool(np.mean((model(x) - network(x)) ** 2) <= before)
        True
    """
    how = Reconstruction(steps, learning_rate, blocks)
    layers = model._flatten_layers() if isinstance(model, keras.Model) else ()
    every = [layer for layer in layers if isinstance(layer, KerasTrainableQuantizationWrapper)]
    wrappers = [each for each in every if _rounds(each)]
    if not wrappers:
        advice = "pass what prepare returned, with weights of layers among what it quantized"
        given = getattr(model, "name", model)
        raise invalid("reconstruct", "model", "one with quantized weights", given, advice)
    for each in wrappers:
        if each.norm is not None:
            advice = "prepare with fold_batch_norm=True: the weights that it fits are those that norms are part of"
            rule = "without a batch norm that folds at conversion"
            raise invalid("reconstruct", f"layer {each.name!r}", rule, each.norm.layer.name, advice)
    how.check_quantizers(found for each in wrappers for found in each.weights_quantizers.values())
    named = named_layers(model, models=True)
    held = [name for name, each in named.items() if any(each is wrapper for wrapper in wrappers)]
    together = {
        id(named[name]): (name, [named[each] for each in inside])
        for name, inside in how.found_blocks(named, held, "/").items()
    }
    learning = {id(each) for _, inside in together.values() for each in inside}
    units = [each for each in named.values() if id(each) in together]
    units += [each for each in wrappers if id(each) not in learning]
    found = find_summary(model)
    check_biases(found.rows if found else ())
    batches = list(batches_of(data, "reconstruct"))
    quantizers = [each.quantizer for each in quantizers_of(model)]
    floats = [(variable, full_precision(variable)) for each in wrappers for variable, _ in with_steps(each)]

    @contextmanager
    def in_float() -> Iterator[None]:
        learned = [(variable, full_precision(variable)) for variable, _ in floats]
        with quantizers_set_aside(quantizers, every):
            _assign(floats)
            try:
                yield
            finally:
                _assign(learned)

    counts = _in_order(model, units, batches)
    for unit, count in counts:
        if id(unit) in together:
            how.check_calls(together[id(unit)][0], count)
    for unit, _ in counts:
        read = _seen(model, unit, batches)
        with in_float():
            given = _seen(model, unit, batches)
        calls = [(args, kwargs, result) for (args, kwargs, _), (_, _, result) in zip(read, given, strict=True)]
        if id(unit) in together:
            learn_block(unit.call, together[id(unit)][1], calls, how)
        else:
            _round(unit, calls, how)
    return model


def _rounds(wrapper: Any) -> bool:
    return not wrapper.weight_values and all(
        isinstance(each, KerasRangeQuantizer) and each.enabled for each in wrapper.weights_quantizers.values()
    )


def _assign(values: Sequence[tuple[Any, tf.Tensor]]) -> None:
    for weight, value in values:
        weight.assign(value)


def _in_order(model: Any, units: Sequence[Any], batches: list[Any]) -> list[tuple[Any, int]]:
    """Layers and blocks in the order in which a batch calls them, and how often it does."""
    calls: list[Any] = []
    with replaced_calls(units, lambda layer, call: _told(call, lambda *_: calls.append(layer))):
        for _ in run_on(model, batches[:1], "reconstruct"):
            pass
    order = {id(layer): layer for layer in calls}
    return [(layer, sum(each is layer for each in calls)) for layer in order.values()]


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
        return relative_error(wrapper.call(*args, **kwargs), wanted)
    finally:
        del vars(wrapper)["get_quantized_weights"]
