"""Batches of data for calibration and verification."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.calibration.batches import Batches, at_most
from trainable_quantizers_core.progress import track

from trainable_quantizers_keras.layers.calls import input_tensors, is_graph

_DATA = Batches((np.ndarray, tf.Tensor), "an array", "a dictionary by name of the input", "a tf.data.Dataset")
batches_of, first_batches, in_words = _DATA.of, _DATA.first, _DATA.in_words


def run_on(
    model: Any, data: Any, owner: str, argument: str = "data", verbose: bool = False, limit: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """The inputs in each batch, and what a model gives for them in evaluation.

    Args:
        model: The model.
        data: Batches.
        owner: The function that takes them, for messages.
        argument: The name of ``data`` there.
        verbose: Whether to show progress.
        limit: How many batches to take at most.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty, or the model does not take one of its batches.
    """
    count = 0
    for batch in at_most(track(batches_of(data, owner, argument), owner, verbose), limit, owner):
        with _DATA.explained(owner, argument, batch, count):
            inputs = inputs_of(model, batch)
            result = model(inputs, training=False)
        yield inputs, result
        count += 1
    if not count:
        raise _DATA.none(owner, argument, data)


def example_of(model: Any, batches: Sequence[Any]) -> Any:
    """The inputs in the first batch; None where there is none that fits."""
    try:
        return inputs_of(model, batches[0])
    except (TypeError, ValueError, IndexError):  # calibration says what is wrong with it
        return None


def inputs_of(model: Any, batch: Any) -> Any:
    """The inputs in a batch: of a tuple, as many items as the model has inputs."""
    if isinstance(batch, (tuple, list)):
        count = len(model.inputs) if is_graph(model) else 1
        alone = count == 1 or isinstance(batch[0], (tuple, list, Mapping))
        batch = batch[0] if alone else list(batch[:count])
    return tf.nest.map_structure(tf.convert_to_tensor, batch)


def in_order(model: Any, inputs: Any) -> list[tf.Tensor]:
    """The inputs in a batch as a graph lists its own, and of their types."""
    symbols = input_tensors(model)
    if isinstance(inputs, Mapping) and not isinstance(getattr(model, "input", None), Mapping):
        inputs = [inputs[symbol.name] for symbol in symbols]
    return [tf.cast(value, symbol.dtype) for symbol, value in zip(symbols, tf.nest.flatten(inputs), strict=True)]


def named_tensors(result: Any, name: str) -> list[tuple[str, Any]]:
    """The tensors of a result: ``output``, ``output['logits']``, ``output[0]``."""
    if isinstance(result, Mapping):
        items = [(f"{name}[{key!r}]", result[key]) for key in sorted(result)]
    elif isinstance(result, (list, tuple)):
        items = [(f"{name}[{index}]", item) for index, item in enumerate(result)]
    else:
        return [(name, result)]
    return [pair for inner, item in items for pair in named_tensors(item, inner)]


def names_of_inputs(model: Any, inputs: Any) -> list[str]:
    """The names of inputs: keys of a dictionary, or names of the model's tensors; in the order of flattening."""
    if isinstance(inputs, dict) and not any(map(tf.nest.is_nested, inputs.values())):
        return sorted(inputs)
    count, known = len(tf.nest.flatten(inputs)), list(getattr(model, "input_names", None) or [])
    names = known if len(known) == count else [f"input_{index}" for index in range(count)]
    return [re.sub(r"\W", "_", name) for name in names]
