"""Metrics of quantizers during training, for TensorBoard, other loggers or inspection."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.training.telemetry import means, oscillations, repeatable, scalars

from trainable_quantizers_keras.calibration.batches import batches_of
from trainable_quantizers_keras.graph.watch import watching
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import keras, stored
from trainable_quantizers_keras.report import report


def telemetry(
    model: Any,
    data: Any,
    loss: Callable[[Any, Any], Any] | None = None,
    writer: Any = None,
    step: int | None = None,
) -> dict[str, float]:
    """Thresholds, clipped share, range used, SQNR and gradient ratio of each quantizer, as ``layer.attribute/figure``.

    Measured in evaluation on batches of your choice, so that one time is comparable with another; it changes nothing
    in the model. The figures are those of ``trainable_quantizers_core.training.telemetry``.

    Args:
        model: Holds trainable quantizers.
        data: Batches as for ``prepare``; a few are enough.
        loss: ``loss(model, batch)`` gives the loss of a batch; without it there are no gradient ratios. They are
            means over the batches.
        writer: Also writes them: the result of ``tf.summary.create_file_writer``.
        step: Number of the step, for the writer.

    Raises:
        QuantizerError: no trainable quantizers, data that the model does not take, an invalid loss or writer.
        ImportError: a writer, and TensorBoard is not installed.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, Recipe(activations={"method": "symmetric"}), [x], verbose=False)
        >>> found = telemetry(model, [x], loss=lambda model, batch: tf.reduce_mean(model(batch) ** 2))
        >>> [name for name in found if name.startswith("head")]
        ['head.output/threshold', 'head.output/clipped', 'head.output/range_used', 'head.output/levels_used', \
'head.output/sqnr', 'head.output/gradient_ratio']
    """
    if writer is not None:
        _check_writer(writer)
    data = repeatable(batches_of(data, "telemetry"))
    found = scalars(report(model, data))
    found.update(oscillations({f"{each.layer}.{each.attribute}": each.quantizer for each in quantizers_of(model)}))
    if loss is not None:
        placed = quantizers_of(model)
        found.update(means(_gradient_ratios(model, placed, batch, loss) for batch in data))
    if writer is not None:
        with writer.as_default(step=0 if step is None else step):
            for name, value in found.items():
                tf.summary.scalar(name, value)
        writer.flush()
    return found


class QuantizationTelemetryCallback(keras.callbacks.Callback):
    """Takes the telemetry of a model after each epoch while ``fit`` runs.

    Args:
        data: Batches to measure on, as for ``prepare``; each epoch iterates over them.
        loss: ``loss(model, batch)``, for gradient ratios.
        log_dir: Folder for TensorBoard; None writes nothing.

    Attributes:
        history: The telemetry of each epoch, in order.

    Raises:
        QuantizerError: as ``telemetry``, when training starts or an epoch ends.
        ImportError: a ``log_dir``, and TensorBoard is not installed.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> x, y = np.random.randn(8, 4).astype("float32"), np.zeros((8, 2), "float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, Recipe(weights={"num_bits": 4}), verbose=False)
        >>> model.compile("sgd", "mse")
        >>> watched = QuantizationTelemetryCallback([x])
        >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[watched])
        >>> len(watched.history), "head.kernel/sqnr" in watched.history[0]
        (2, True)
    """

    def __init__(
        self,
        data: Any,
        loss: Callable[[Any, Any], Any] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.data = repeatable(batches_of(data, type(self).__name__))
        self.loss = loss
        self.history: list[dict[str, float]] = []
        self._writer = None if log_dir is None else tf.summary.create_file_writer(os.fspath(log_dir))
        if self._writer is not None:
            _check_writer(self._writer)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure, and write."""
        self.history.append(telemetry(self.model, self.data, self.loss, self._writer, epoch))


def _check_writer(writer: Any) -> None:
    if not isinstance(writer, tf.summary.SummaryWriter):
        advice = "pass tf.summary.create_file_writer(folder), or leave it out and log what this returns"
        raise invalid("telemetry", "writer", "a tf.summary.SummaryWriter", writer, advice)
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError('tf.summary needs TensorBoard: pip install "trainable-quantizers-keras[tensorboard]".')


def _gradient_ratios(
    model: Any, placed: list[PlacedQuantizer], batch: Any, loss: Callable[[Any, Any], Any]
) -> dict[str, float]:
    inputs: dict[int, list[tf.Tensor]] = {}
    symbolic: list[bool] = []
    holders = [each.holder for each in placed if each.target == "activation"]
    wrappers = {id(each.holder): each.holder for each in placed if each.target == "weights"}
    with tf.GradientTape() as tape, _weights_of(wrappers, tape) as weights:

        def see(holder: Any, x: tf.Tensor) -> None:
            symbolic.append(not hasattr(x, "numpy"))
            if not symbolic[-1]:
                tape.watch(x)
            inputs.setdefault(id(holder), []).append(x)

        with watching(holders, see, before=True):
            value = loss(model, batch)
    if any(symbolic):
        advice = "pass one without tf.function, which calls the model itself and not its predict"
        raise invalid("telemetry", "loss", "a function that runs eagerly", loss, advice)
    if not isinstance(value, tf.Tensor) or value.shape.rank:
        advice = "write loss=lambda model, batch: tf.reduce_mean(losses.mse(batch[1], model(batch[0])))"
        raise invalid("telemetry", "loss", "a function that gives a scalar", value, advice)
    wanted = []
    for each in placed:
        names = each.quantizer.specification.initial
        parameters = [stored(each.quantizer.get_quantizer_variable(name)) for name in names]
        if each.target == "weights":
            quantized = [weights[id(each.holder)][each.attribute]]
        else:
            quantized = inputs.get(id(each.holder), [])
        if quantized and not each.quantizer.freeze_quant_params:
            wanted.append((each, (parameters, quantized)))
    tensors = [parts for _, parts in wanted]
    gradients = tape.gradient(value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {
        f"{each.layer}.{each.attribute}/gradient_ratio": each.gradient_ratio(
            [_array(gradient) for gradient in of_parameters],
            np.concatenate([_array(tensor).ravel() for tensor in quantized]),
            np.concatenate([_array(gradient).ravel() for gradient in of_quantized]),
        )
        for (each, (_, quantized)), (of_parameters, of_quantized) in zip(wanted, gradients, strict=True)
    }


@contextmanager
def _weights_of(wrappers: Mapping[int, Any], tape: tf.GradientTape) -> Iterator[dict[int, dict[str, Any]]]:
    """The weights that each wrapper quantizes, by key; with a norm they are tensors, the same for all calls."""
    found = {identity: wrapper.get_weights_vars() for identity, wrapper in wrappers.items()}
    folding = [identity for identity, wrapper in wrappers.items() if getattr(wrapper, "norm", None) is not None]
    for identity in folding:
        tape.watch([stored(weight) for _, weight, _ in found[identity]])
        vars(wrappers[identity])["get_weights_vars"] = functools.partial(list, found[identity])
    try:
        yield {identity: {str(key): stored(weight) for key, weight, _ in each} for identity, each in found.items()}
    finally:
        for identity in folding:
            del vars(wrappers[identity])["get_weights_vars"]


def _array(tensor: Any) -> np.ndarray:
    return tf.cast(tf.convert_to_tensor(tensor), tf.float32).numpy()
