"""Moving the schedules of quantizers on while a model trains."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.inventory import trainable_quantizers
from trainable_quantizers_keras.keras_version import keras, stored
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


def advance_schedules(model: Any, steps: Any = 1) -> None:
    """Tell the quantizers of a model that its optimizer made ``steps`` more steps; call it after each.

    It is for loops of your own, inside ``tf.function`` or not; ``fit`` takes ``QuantizationScheduleCallback``. The
    count is a weight of the model: a training that resumes from a file goes on where it was.

    Raises:
        QuantizerError: no quantizer of the model has a schedule.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe(weights={"num_bits": 4, "schedule": {"start": 2}})
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, recipe, verbose=False)
        >>> advance_schedules(model)
        >>> [float(weight) for weight in model.weights if "kernel_step" in weight.name]
        [1.0]
    """
    for quantizer in _scheduled("advance_schedules", model):
        quantizer.advance(steps)


class QuantizationScheduleCallback(keras.callbacks.Callback):
    """Advances the schedules of a model as its optimizer steps, while ``fit`` runs.

    What counts are the steps of the optimizer: neither batches that a loss scale leaves out nor those that gradient
    accumulation puts together count by themselves. With ``steps_per_execution`` the schedules move at the end of
    each execution. Put it before callbacks that save the model, so that they save what belongs together.

    Raises:
        QuantizerError: when training starts and no quantizer of the model has a schedule.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe(weights={"num_bits": 4, "schedule": {"start": 2, "ramp": 5}})
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, recipe, verbose=False)
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
        >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[QuantizationScheduleCallback()])
        >>> [float(weight) for weight in model.weights if "kernel_step" in weight.name]
        [4.0]
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the schedules."""
        _scheduled(type(self).__name__, self.model)
        model = self.model
        self._advance = tf.function(lambda steps: advance_schedules(model, steps))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notice where the optimizer is."""
        self._seen = self._begin = self._iterations()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Advance by what the optimizer did."""
        now = self._iterations()
        self._advance(tf.constant(now - self._seen, tf.int64))
        self._seen = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Say if nothing moved."""
        if self._seen == self._begin:
            text = "the optimizer of compile made no step in this epoch, so the schedules of quantizers did not move"
            advice = (
                "call advance_schedules(self) in a train_step with optimizers of its own, and leave this callback out"
            )
            warnings.warn(f"{type(self).__name__}: {text}; {advice}.", stacklevel=2)

    def _iterations(self) -> int:
        return int(tf.convert_to_tensor(stored(self.model.optimizer.iterations)))


def _scheduled(owner: str, model: Any) -> list[BaseKerasTrainableQuantizer]:
    scheduled = [quantizer for quantizer in trainable_quantizers(model) if quantizer.schedule is not None]
    if not scheduled:
        advice = "give the weights or activations of the recipe a schedule, or leave this out"
        raise invalid(owner, "model", "one whose quantizers have schedules", getattr(model, "name", model), advice)
    return scheduled
