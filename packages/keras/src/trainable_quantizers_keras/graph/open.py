"""Turns models and layers whose calls are written in Python into graphs, like functional models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from trainable_quantizers_keras.graph.attention import attention_of
from trainable_quantizers_keras.graph.draw import Drawing
from trainable_quantizers_keras.graph.kinds import follows_keras, word_of
from trainable_quantizers_keras.graph.parts import first_part, second_part
from trainable_quantizers_keras.graph.symbolic import NotOpenedError, Recording, first_line, in_words
from trainable_quantizers_keras.graph.watch import first_calls
from trainable_quantizers_keras.keras_version import keras, rename
from trainable_quantizers_keras.layers.activity import regularized
from trainable_quantizers_keras.layers.attributes import Again
from trainable_quantizers_keras.layers.calls import Call, arguments_of, is_graph, redrawn
from trainable_quantizers_keras.layers.copies import copied, parts_of
from trainable_quantizers_keras.layers.function import einsum
from trainable_quantizers_keras.layers.opened import CalledDifferentlyError, KerasOpenedModel, functional_like

_OF_LAYERS = ("MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention", "Lambda")
"""Layers of Keras that compute by other layers or by functions."""
_DIFFERENTLY = "it is called in several ways"
_TOLERANCE = 0.01  # of the largest value: half precision differs by less
_DEPTHWISE = "the depthwise convolution inside it; the pointwise one inside it is {0}_pointwise"


@dataclass
class Opened:
    """A copy of a model, as functional as can be.

    Args:
        model: The copy.
        notes: By identity of a layer of the copy: what a user should read about it.
    """

    model: Any
    notes: dict[int, str]


def opened(model: Any, example: Any = None) -> Opened:
    """A copy in which layers that hold layers, layers of the user's own and subclassed models are graphs.

    Args:
        model: A built model; stays as it is.
        example: A batch of inputs of a subclassed model.
    """
    if example is not None and not all(each.built for each in model._flatten_layers()):
        with suppress(Exception):  # of a batch that the model does not take: calibration says so
            model(example)  # Keras 3 builds what cells hold when it calls them on values
    closed: dict[int, str] = {}
    tried: Counter[int] = Counter()
    while True:
        opening = _Opening(closed, tried)
        try:
            found = opening.model(model, example)
        except CalledDifferentlyError as error:
            closed[error.layer] = _DIFFERENTLY
            continue
        wrong = opening.differing(model, example)
        if not wrong:
            return found
        closed.update(wrong)
        tried.update(wrong.keys())


@dataclass
class _Opening:
    """One attempt.

    Args:
        closed: Why layers stay as they are, by identity.
        tried: How often a graph of a layer computed something else, by identity.
        copies: The replacements of layers and variables, by identity.
        notes: By identity of a layer of the original.
        following: The layers that results of layers go through, by identity of the layer.
        alive: Keeps symbols, whose identities tell them apart.
    """

    closed: dict[int, str]
    tried: Counter[int]
    copies: dict[int, Any] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    following: dict[int, Any] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)
    functions: set[int] = field(default_factory=set)  # identities of layers for which functions stand in graphs
    graphs: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # layers and their graphs, those inside first

    def model(self, model: Any, example: Any) -> Opened:
        """Copy a model."""
        if is_graph(model) and getattr(model, "inputs", None):
            fresh = self.again(model)
        else:
            fresh = self._subclassed(model, example)
        notes = {id(self.copies[key]): note for key, note in self.notes.items() if key in self.copies}
        return Opened(fresh, notes)

    def differing(self, model: Any, example: Any) -> dict[int, str]:
        """By identity, why the graphs of layers compute something else than the layers; innermost layers only."""
        wrong: dict[int, str] = {}
        if example is None or not self.graphs:
            return wrong
        with first_calls([layer for layer, _ in self.graphs.values()]) as calls:
            try:
                model(example)
            except Exception:  # of a batch that the model does not take: calibration says so
                return wrong
        for identity, (layer, graph) in self.graphs.items():
            inside = layer._flatten_layers(include_self=False)
            if identity in calls and not any(id(each) in wrong for each in inside):
                reason = _difference(graph, *calls[identity])
                wrong.update({identity: reason} if reason else {})
        return wrong

    def again(self, layer: Any, call: Call | None = None) -> Any:
        """Copy a layer."""
        return copied(layer, self._replace, self._after, self.copies, call)

    def _subclassed(self, model: Any, example: Any) -> Any:
        reason = self.closed.get(id(model), "no calibration data show what it takes")
        for free in (True, False)[self.tried[id(model)] :] if example is not None else ():
            try:
                return self._record(model, (symbols_like(example, free),), {}, nested=True)
            except NotOpenedError as error:
                reason = str(error)
        self.notes[id(model)] = reason
        for part in parts_of(model).values():
            self.notes.setdefault(id(part), f"not opened: {reason}")
        return self.again(model)

    def _replace(self, layer: Any, call: Call | None) -> Any:
        """The replacement of a layer in the copy."""
        if call is None or isinstance(layer, keras.layers.InputLayer):
            return layer
        if not isinstance(layer, keras.layers.Layer):
            return attention_of(layer) if word_of(layer) == "DotProductAttention" else layer
        if type(layer).__name__ == "TFOpLambda" and word_of(layer) == "einsum":
            return einsum
        part = first_part(layer)
        if part is not None:
            self.following[id(layer)] = second_part(layer)
            if type(layer).__name__.startswith("Separable"):
                self.notes[id(layer)] = _DEPTHWISE.format(layer.name)
            return part
        if not _opens(layer):
            return layer
        if self.closed.get(id(layer)) == _DIFFERENTLY and not layer.weights:
            return self._for_each_call(layer)
        if id(layer) in self.closed:
            self.notes[id(layer)] = f"not opened: {self.closed[id(layer)]}"
            return layer
        try:
            args, kwargs = ((layer.input,), {}) if call.node is None else arguments_of(call.node)
            return self._record(layer, args, kwargs)
        except (NotOpenedError, AttributeError) as error:  # the latter from a layer that a Sequential calls twice
            self.notes[id(layer)] = f"not opened: {error}"
            return layer

    def _for_each_call(self, layer: Any) -> Callable[..., Any]:
        """The replacement of a layer without weights that is called in several ways: one graph for each call."""
        count = 0
        self.functions.add(id(layer))

        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            try:
                fresh = self._record(layer, args, kwargs)
            except NotOpenedError as error:
                self.notes[id(layer)] = f"not opened: {error}"
                return copied(layer)(*args, **kwargs)
            self.copies[id(layer)] = called
            del self.graphs[id(layer)]  # compared as a part of the layer around
            rename(fresh, f"{layer.name}_{count}" if count else layer.name)
            count += 1
            return fresh.call_as(layer, args, kwargs)

        return called

    def _after(self, call: Call) -> Any:
        return self.following.get(id(call.layer))

    def _record(self, layer: Any, args: Any, kwargs: Any, nested: bool = False) -> Any:
        """A model or layer as a functional model, from its call on symbols like these arguments.

        Args:
            layer: The layer that is called.
            args: Its arguments, symbols among them.
            kwargs: Its arguments by name.
            nested: Whether the copy takes its inputs in the structure of the first argument, or as a list.

        Raises:
            NotOpenedError: the call cannot be recorded.
        """
        kept = [(known, dict(known)) for known in (self.copies, self.notes, self.following)]
        try:
            recording = Recording(layer, args, kwargs)
            self.alive.append(recording)
            drawing = Drawing(recording, self)
            inputs, outputs = redrawn(
                recording.calls, recording.inputs, recording.outputs, drawing.stand_in, self._after
            )
            drawing.settle()
            drawing.names.of_functions(outputs)
            outputs = tf.nest.map_structure(partial(regularized, layer), outputs)
            if nested:
                inputs = tf.nest.pack_sequence_as(args[0], inputs[: len(tf.nest.flatten(args[0]))])
            elif len(inputs) == 1:
                (inputs,) = inputs
            for identity in self.functions:  # as attributes they are layers
                self.copies.pop(identity, None)
            fresh = functional_like(layer, inputs, outputs, Again(self.copies, self.again))
        except CalledDifferentlyError:
            raise
        except Exception as error:  # anything that a call raises on symbols
            for known, before in kept:
                known.clear()
                known.update(before)
            raise NotOpenedError(in_words(error)) from error
        if isinstance(fresh, KerasOpenedModel):
            fresh.recorded = replace(recording.form, tensors=[], named={}, masked={})
            fresh.read = frozenset(recording.read)
        if not layer.trainable:
            fresh.trainable = False
        self.copies[id(layer)] = fresh
        self.graphs[id(layer)] = (layer, fresh)
        return fresh


def symbols_like(example: Any, free: bool) -> Any:
    """Symbols for inputs like an example: of any size but for the channels, or of its size."""

    def symbol(value: Any) -> Any:
        shape = list(value.shape)
        kept = shape[-1:] if value.dtype.is_floating and len(shape) > 1 else []
        sizes = [None] * (len(shape) - len(kept)) + kept if free else [None, *shape[1:]]
        return keras.Input(batch_shape=sizes if shape else (), dtype=value.dtype)

    return tf.nest.map_structure(symbol, example)


def _difference(graph: Any, args: Any, kwargs: Any, result: Any) -> str:
    """How the graph of a layer differs from a call of the layer; empty if it does not."""
    try:
        values = tf.nest.flatten(graph(*args, **kwargs))
    except Exception as error:  # anything that a graph raises on an unexpected batch
        return f"as a graph it does not take the calibration data: {first_line(error)}"
    expected = tf.nest.flatten(result)
    if len(values) == len(expected) and all(map(_is_close, values, expected)):
        return ""
    return "as a graph it computes something else on the calibration data"


def _is_close(value: Any, expected: Any) -> bool:
    if not tf.as_dtype(expected.dtype).is_floating:
        return np.array_equal(value, expected)
    one, two = (tf.cast(each, tf.float64).numpy() for each in (value, expected))
    return one.shape == two.shape and np.allclose(one, two, rtol=0, atol=_TOLERANCE * np.abs(two).max(initial=0))


def _opens(layer: Any) -> bool:
    """Whether a layer is worth its own graph: all layers except those of Keras that do one thing."""
    if is_graph(layer):
        return not getattr(layer, "inputs", None)  # a Sequential that does not know its input
    if isinstance(layer, keras.Model):
        return True
    if follows_keras(layer):
        return any(cls.__name__ in _OF_LAYERS for cls in type(layer).__mro__)
    return not isinstance(layer, keras.layers.RNN)
