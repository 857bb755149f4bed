"""Re-estimates batch norm statistics for the final weights of training."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.calibration.batches import run_on
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.quantized_layer import QuantizedLayer


def reestimate_batch_norm(model: Any, data: Any) -> Any:
    """Replace moving mean and variance of each batch norm by means over batches, in place; returns the model.

    At few bits weights keep jumping between two levels until training ends, and moving averages lag behind: they
    describe earlier weights (Nagel et al. 2022, arXiv 2203.11086). All other layers work as in evaluation, with
    their quantizers. A batch counts as much as any other. Norms that were folded have no statistics left; those that
    fold at conversion have, and the weights that they fold into stay as they are until the last batch.

    Args:
        model: A prepared model after training, before ``convert``.
        data: Batches as for ``prepare``, of the size that training used.

    Raises:
        QuantizerError: no batch norm, no data, or a batch that the model does not take.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(2)]
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), *layers])
        >>> model = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> bool(np.any(reestimate_batch_norm(model, [x]).get_layer("norm").moving_mean))
        True
    """
    layers = list(model._flatten_layers()) if isinstance(model, keras.Model) else []
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        advice = "prepare with fold_batch_norm=False or 'at_conversion' to train with norms"
        raise invalid("reestimate_batch_norm", "model", "one with batch norms", getattr(model, "name", model), advice)
    folding = [layer for layer in layers if isinstance(layer, QuantizedLayer) and layer.norm is not None]
    with _gathering(norms, folding):
        for count, _ in enumerate(run_on(model, data, "reestimate_batch_norm"), 1):
            for norm in norms:
                norm.momentum = count / (count + 1)  # of the next batch
    return model


@contextmanager
def _gathering(norms: Sequence[Any], folding: Sequence[Any]) -> Iterator[None]:
    """Let batch norms work as in training, with new averages, inside the context."""
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        vars(norm)["call"] = functools.partial(_in_training, norm.call)
    for wrapper in folding:
        vars(wrapper)["norm_mode"] = functools.partial(_mode, wrapper.norm_mode(True))
        vars(wrapper)["norm"] = wrapper.norm.held()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
            del vars(norm)["call"]
        for wrapper in folding:
            del vars(wrapper)["norm_mode"]
            vars(wrapper)["norm"] = wrapper.norm.released()


def _mode(given: Any, mode: Any) -> Any:
    """A mode that replaces the mode of the call."""
    return given


def _in_training(call: Any, inputs: Any, *args: Any, training: Any = None, **kwargs: Any) -> Any:
    return call(inputs, training=True, **kwargs)
