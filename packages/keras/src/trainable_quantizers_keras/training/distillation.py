"""Distillation: the float model teaches the quantized one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.training.distillation import DistillationTerms, check_shapes, matched_layers

from trainable_quantizers_keras.calibration.batches import named_tensors
from trainable_quantizers_keras.graph.parts import is_activated, names_of_last_part
from trainable_quantizers_keras.graph.watch import named_layers, watching
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.holder import HOLDER_SUFFIX
from trainable_quantizers_keras.prepare import find_summary

_Results = dict[int, list[Any]]  # of layers, by their identity


class Distillation(keras.Model):  # type: ignore[misc]
    """A student model that adds a distillation loss to its losses: compile and fit it in place of the student.

    loss = distance of the outputs + weight · mean over ``layers`` of Σ(y - y_float)²/Σy_float²

    With a temperature T the outputs z are logits, and their distance is T²·KL(softmax(z_float/T) ‖ softmax(z/T)), the
    mean over all but the axis of classes. Without one it is Σ(z - z_float)²/Σz_float². Several outputs, in tuples or
    dictionaries, add up. The sums are computed in float32 at least.

    The gradient goes to the student alone, thresholds and ranges included. The teacher runs in evaluation and is no
    part of this model: neither of its weights nor of its files. Save the student. A call gives the outputs of the
    student; the loss of it is in ``losses``, which ``fit`` adds to that of ``compile``, if there is one.

    Args:
        teacher: The float model; stays as it is.
        student: The model that ``prepare`` made from it.
        layers: Names of layers, as in the teacher, whose results are compared too: as later layers read them, so
            quantized where the student quantizes them. ``inner/conv`` is a layer of a model in the model.
        temperature: T, for outputs that are logits.
        weight: Of the layers beside the outputs.
        class_axis: The axis of the outputs that counts classes, with a temperature.

    Raises:
        QuantizerError: no models, a name that not both have, a temperature or weight out of range; in a call,
            outputs of other shapes than those of the teacher.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531; layers as in Romero et al. 2014, arXiv 1412.6550.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(3)]
        >>> network = keras.Sequential([keras.Input((4,)), *layers])
        >>> x, y = np.random.randn(16, 4).astype("float32"), np.arange(16) % 3
        >>> model = prepare(network, Recipe.preset("power_of_two_4bit"), [x], verbose=False)
        >>> distillation = Distillation(network, model, layers=("hidden",), temperature=4.0)
        >>> distillation.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = distillation.fit(x, y, verbose=0)
        >>> bool(np.all(distillation(x) == model(x)))
        True
    """

    def __init__(
        self,
        teacher: Any,
        student: Any,
        layers: Sequence[str] = (),
        temperature: float | None = None,
        weight: float = 1.0,
        class_axis: int = -1,
    ) -> None:
        super().__init__()
        self.terms = DistillationTerms(temperature, weight, class_axis)
        for argument, model in (("teacher", teacher), ("student", student)):
            if not isinstance(model, keras.Model):
                raise invalid("Distillation", argument, "a model", model, "pass the network itself")
        self.student = student
        self._teach = lambda inputs: teacher(inputs, training=False)  # a function, so that Keras tracks no weights
        theirs, ours = _layers_of(teacher), _layers_of(student)
        pairs = matched_layers(layers, theirs, ours, find_summary(student))
        taps = {name: (_tapped(name, theirs[name], ours, other), [theirs[name]]) for name, other in pairs.items()}
        self._taps = lambda: taps  # likewise
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The outputs of the student; the loss joins ``losses``."""
        ours: _Results = {}
        theirs: _Results = {}
        taps = self._taps()
        with _seeing((layer for pair, _ in taps.values() for layer in pair), ours):
            outputs = self.student(inputs, training=training)
        with _seeing((layer for _, pair in taps.values() for layer in pair), theirs):
            wanted = self._teach(inputs)
        pairs = _paired("outputs", outputs, wanted)
        temperature, axis = self.terms.temperature, self.terms.class_axis
        divergences = [] if temperature is None else [_divergence(*pair, temperature, axis) for pair in pairs]
        loss = tf.add_n(divergences) if divergences else _squared_error(pairs)
        if taps:
            errors = [
                _squared_error(_paired(f"results of {name!r}", _given(mine, ours), _given(other, theirs)))
                for name, (mine, other) in taps.items()
            ]
            loss += self.terms.weight * tf.add_n(errors) / len(errors)
        self.add_loss(loss)
        return outputs


def _layers_of(model: Any) -> dict[str, Any]:
    """The layers of a model by path, models inside included."""
    return named_layers(model, models=True)


def _tapped(name: str, layer: Any, ours: dict[str, Any], matched: str) -> list[Any]:
    """The source of the student's result for a layer of the teacher: its quantizers, or else the layer.

    Raises:
        QuantizerError: ``prepare`` took an activation function out of the layer.
    """
    path, _, _ = matched.rpartition("/")
    parts = [f"{path}/{each}".lstrip("/") for each in names_of_last_part(layer)]
    last = next((each for each in parts if each in ours), matched)
    found = ours[last]
    if last == matched and is_activated(layer) and not is_activated(getattr(found, "layer", found)):
        rule, advice = "names of layers with the same output in both models", nearest(name, list(ours))
        raise invalid("Distillation", "layers", rule, name, f"its activation function is separate now; {advice}")
    holder = re.compile(rf"{re.escape(last)}({HOLDER_SUFFIX}(_\d+)?|/output)(\.\d+)?")
    holders = {match: each for key, each in ours.items() if (match := holder.fullmatch(key))}
    several = any(match[3] for match in holders)  # results of one call, of which some are not quantized
    return [*holders.values()] if holders and not several else [found]


def _seeing(layers: Iterable[Any], results: _Results) -> AbstractContextManager[None]:
    return watching(layers, lambda layer, result: results.setdefault(id(layer), []).append(result))


def _given(layers: Sequence[Any], results: _Results) -> list[Any]:
    return [result for layer in layers for result in results.get(id(layer), ())]


def _paired(what: str, given: Any, wanted: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """The floating tensors of two results, side by side, in float32 at least; no gradient to the second."""
    ours, theirs = (
        {name: value for name, value in named_tensors(result, "output") if _is_floating(value)}
        for result in (given, wanted)
    )
    shapes = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (ours, theirs))
    check_shapes(what, *shapes)
    return [(_wide(one), tf.stop_gradient(_wide(theirs[name]))) for name, one in ours.items()]


def _is_floating(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating


def _wide(tensor: tf.Tensor) -> tf.Tensor:
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def _divergence(student: tf.Tensor, teacher: tf.Tensor, temperature: float, axis: int) -> tf.Tensor:
    """T²·KL(softmax(z_float/T) ‖ softmax(z/T)), the mean over all but the axis of classes."""
    given, wanted = (tf.nn.log_softmax(each / temperature, axis) for each in (student, teacher))
    divergence = tf.reduce_sum(tf.exp(wanted) * (wanted - given), axis)
    return tf.reduce_mean(divergence) * temperature**2


def _squared_error(pairs: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Σ(y - y_float)²/Σy_float²."""
    error = tf.add_n([tf.reduce_sum((one - other) ** 2) for one, other in pairs])
    return error / (tf.add_n([tf.reduce_sum(other**2) for _, other in pairs]) + 1e-30)
