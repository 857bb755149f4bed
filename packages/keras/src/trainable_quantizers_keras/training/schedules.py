"""Advances the schedules of quantizers during training."""

from __future__ import annotations

import math
import warnings
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.inventory import quantized_weights, trainable_quantizers
from trainable_quantizers_keras.keras_version import KERAS_3, keras, stored
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


def advance_schedules(model: Any, steps: Any = 1) -> None:
    """Advance the schedules of a model's quantizers by ``steps``; call it after each step of the optimizer.

    It is for loops of your own, inside ``tf.function`` or not; ``fit`` takes ``QuantizationScheduleCallback``. The
    count is a weight of the model: a training that resumes from a file goes on where it was.

    Args:
        model: Holds the quantizers.
        steps: Number of steps.

    Raises:
        QuantizerError: no quantizer of the model counts steps.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> recipe = Recipe(weights={"num_bits": 4, "schedule": {"start": 2}})
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, recipe, verbose=False)
        >>> advance_schedules(model)
        >>> [float(weight) for weight in model.weights if "kernel_step" in weight.name]
        [1.0]
    """
    quantizers = _scheduled("advance_schedules", model)
    for weight, quantizer in quantized_weights(model):
        quantizer.follow(weight, steps)
    for quantizer in quantizers:
        quantizer.advance(steps)


class QuantizationScheduleCallback(keras.callbacks.Callback):
    """Advances the schedules of a model as its optimizer steps, while ``fit`` runs.

    Only steps of the optimizer count: batches that a loss scale skips do not, and batches that gradient accumulation
    combines count as one. With ``steps_per_execution`` the schedules move at the end of each execution, within which
    a loss scale of Keras 2 should not grow. Put it before callbacks that save the model, so that they save a
    consistent state. Under a strategy, call ``compile`` inside its scope.

    Raises:
        QuantizerError: when training starts and no quantizer of the model has a schedule, or model or optimizer
            were made outside the scope of the strategy.

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
        _check_scope(type(self).__name__, model)
        self._advance = tf.function(lambda steps: advance_schedules(model, steps))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Record the step count of the optimizer."""
        self._seen = self._begin = self._iterations()
        self._scale = _loss_scale(self.model.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Advance by the steps that the optimizer made."""
        now = self._iterations()
        self._advance(tf.constant(now - self._seen - self._left_out(), tf.int64))
        self._seen = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Warn if the optimizer made no step."""
        if self._seen == self._begin:
            text = "the compiled optimizer made no step in this epoch, so the schedules of quantizers did not advance"
            advice = (
                "call advance_schedules(self) in a train_step with optimizers of its own, and leave this callback out"
            )
            warnings.warn(f"{type(self).__name__}: {text}; {advice}.", stacklevel=2)

    def _left_out(self) -> int:
        """Steps that a loss scale skipped, but which the optimizers of Keras 2 count."""
        before, self._scale = self._scale, _loss_scale(self.model.optimizer)
        if self._scale is None or before is None:
            return 0
        if self._scale == before:  # it is 1 and goes no lower, if this was no step
            return int(int(self.model.optimizer.dynamic_counter) == 0)
        return max(round(math.log2(before / self._scale)), 0)

    def _iterations(self) -> int:
        return int(tf.convert_to_tensor(stored(self.model.optimizer.iterations)))


def _loss_scale(optimizer: Any) -> float | None:
    """The loss scale of an optimizer of Keras 2 that halves it where gradients are not finite; None without."""
    dynamic = not KERAS_3 and getattr(optimizer, "dynamic_counter", None) is not None
    return float(optimizer.loss_scale) if dynamic else None


def _check_scope(owner: str, model: Any) -> None:
    """Refuse models for which Keras 3 would count a step for each replica, or fail deep inside."""
    strategy, made = model.distribute_strategy, [model.optimizer.iterations, *model.trainable_weights]
    if not KERAS_3 or strategy.num_replicas_in_sync == 1:
        return
    if not all(strategy.extended.variable_created_in_scope(stored(variable)) for variable in made):
        advice = "call prepare and compile inside `with strategy.scope():`"
        raise invalid(owner, "model and optimizer", "made in the scope of the strategy", model.name, advice)


def _scheduled(owner: str, model: Any) -> list[BaseKerasTrainableQuantizer]:
    scheduled = [quantizer for quantizer in trainable_quantizers(model) if quantizer.counts_steps]
    if not scheduled:
        advice = "give the recipe a schedule, or its weights oscillations, or leave this out"
        rule = "one whose quantizers have schedules or oscillations"
        raise invalid(owner, "model", rule, getattr(model, "name", model), advice)
    return scheduled
