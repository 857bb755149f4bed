"""Trains the layers of a block together, so that the block gives its float output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.training.reconstruct import Reconstruction

from trainable_quantizers_keras.graph.kinds import has_bias
from trainable_quantizers_keras.keras_version import full_precision, keras, stored
from trainable_quantizers_keras.kernels.accumulator import step_of_bias

Call = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Arguments of a layer or block, arguments by name, and the result in float."""


def relative_error(result: Any, wanted: Any) -> tf.Tensor:
    """Σ(y - y_float)²/Σy_float² over the floating tensors of a result."""
    pairs = [
        (tf.cast(one, tf.float32), tf.cast(other, tf.float32))
        for one, other in zip(tf.nest.flatten(result), tf.nest.flatten(wanted), strict=True)
        if isinstance(other, tf.Tensor) and other.dtype.is_floating
    ]
    power = tf.add_n([tf.reduce_sum(other**2) for _, other in pairs])
    return tf.add_n([tf.reduce_sum((one - other) ** 2) for one, other in pairs]) / (power + 1e-30)


def learn_block(block: Callable[..., Any], wrappers: Sequence[Any], calls: Sequence[Call], how: Reconstruction) -> None:
    """Train weights and biases of a block's layers, in place; a block that does no better stays as it was.

    A weight of channel c is w + Δ[c]·v and a bias b + Δ[c]·u, where Adam learns v and u, so that a learning rate means
    steps of the weight's grid, independent of the scale of its channel.

    Args:
        block: The block, which is called.
        wrappers: Its layers with quantized weights.
        calls: On data.
        how: For how many steps, and how fast.
    """
    parameters = [each for wrapper in wrappers for each in with_steps(wrapper)]
    tensors = [parameter for parameter, _ in parameters]
    kept = [full_precision(parameter) for parameter in tensors]
    moved = [tf.Variable(tf.zeros_like(value)) for value in kept]
    optimizer = keras.optimizers.Adam(how.learning_rate)
    optimizer.build(moved)

    @tf.function(reduce_retracing=True)
    def learn(*call: Any) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([stored(parameter) for parameter in tensors])
            error = _error(block, call)
        gradients = tape.gradient(error, [stored(parameter) for parameter in tensors], unconnected_gradients="zero")
        scaled = [gradient * scale for gradient, (_, scale) in zip(gradients, parameters, strict=True)]
        optimizer.apply_gradients(zip(scaled, moved, strict=True))
        for (parameter, scale), value, move in zip(parameters, kept, moved, strict=True):
            parameter.assign(value + move * scale)

    def error() -> float:
        return sum(float(_error(block, call)) for call in calls)

    before = error()
    for step in range(how.steps):
        optimizer.learning_rate.assign(how.rate(step))
        learn(*calls[step % len(calls)])
    if not error() < before:
        for parameter, value in zip(tensors, kept, strict=True):
            parameter.assign(value)


def with_steps(wrapper: Any) -> Iterator[tuple[Any, tf.Tensor]]:
    """Weights and bias of a layer, each with Δ of its channels."""
    triples = wrapper.get_weights_vars()
    for _, weight, quantizer in triples:
        yield weight, quantizer.broadcast(quantizer.step(), weight)
    if has_bias(wrapper.layer) and len(triples) == 1:
        bias = wrapper.layer.bias
        yield bias, step_of_bias(triples[0][2].step(), bias.shape[0])


def _error(block: Callable[..., Any], call: Any) -> tf.Tensor:
    args, kwargs, wanted = call
    return relative_error(block(*args, **kwargs), wanted)
