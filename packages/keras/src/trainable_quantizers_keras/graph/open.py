"""Models and layers whose calls are written in Python, as graphs, like functional models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from trainable_quantizers_keras.graph.attention import attention_of
from trainable_quantizers_keras.graph.kinds import follows_keras, word_of
from trainable_quantizers_keras.graph.parts import first_part, second_part
from trainable_quantizers_keras.graph.symbolic import NotOpenedError, Recording, first_line, in_words
from trainable_quantizers_keras.graph.watch import first_calls
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import Call, arguments_of, behind, is_graph, redrawn
from trainable_quantizers_keras.layers.copies import copied, parts_of
from trainable_quantizers_keras.layers.function import einsum
from trainable_quantizers_keras.layers.opened import (
    Again,
    CalledDifferentlyError,
    CallForm,
    KerasOpenedModel,
    functional_like,
    rename,
)
from trainable_quantizers_keras.layers.weight import KerasWeight

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
    closed: dict[int, str] = {}
    while True:
        opening = _Opening(closed)
        try:
            found = opening.model(model, example)
        except CalledDifferentlyError as error:
            closed[error.layer] = _DIFFERENTLY
            continue
        wrong = opening.differing(model, example)
        if not wrong:
            return found
        closed.update(wrong)


@dataclass
class _Opening:
    """One attempt.

    Args:
        closed: Why layers stay as they are, by identity.
        copies: What stands for layers and variables, by identity.
        notes: By identity of a layer of the original.
        following: What results of layers go through, by identity of the layer.
        alive: Keeps symbols, whose identities tell them apart.
    """

    closed: dict[int, str]
    copies: dict[int, Any] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    following: dict[int, Any] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)
    functions: set[int] = field(default_factory=set)  # identities of layers for which functions stand in graphs
    graphs: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # layers and their graphs, those inside first

    def model(self, model: Any, example: Any) -> Opened:
        """The copy of a model."""
        if is_graph(model) and getattr(model, "inputs", None):
            fresh = self.again(model)
        else:
            fresh = self._subclassed(model, example)
        notes = {id(self.copies[key]): note for key, note in self.notes.items() if key in self.copies}
        return Opened(fresh, notes)

    def differing(self, model: Any, example: Any) -> dict[int, str]:
        """Of the layers whose graphs compute other things than they do: why, by identity; those inside alone."""
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
        """The copy of a layer."""
        return copied(layer, self._replace, self._after, self.copies, call)

    def _subclassed(self, model: Any, example: Any) -> Any:
        reason = "no calibration data show what it takes"
        for free in (True, False) if example is not None else ():
            if free and id(model) in self.closed:
                continue
            try:
                return self._record(model, (symbols_like(example, free),), {}, nested=True)
            except NotOpenedError as error:
                reason = str(error)
        self.notes[id(model)] = reason
        for part in parts_of(model).values():
            self.notes.setdefault(id(part), f"not opened: {reason}")
        return self.again(model)

    def _replace(self, layer: Any, call: Call | None) -> Any:
        """What stands for a layer in the copy."""
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
        """What stands for a layer without weights that is called in several ways: one graph for each call."""
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
            layer: What is called.
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
            drawing = _Drawing(recording, self)
            inputs, outputs = redrawn(
                recording.calls, recording.inputs, recording.outputs, drawing.stand_in, self._after
            )
            drawing.settle()
            drawing.names.of_functions(outputs)
            if nested:
                inputs = tf.nest.pack_sequence_as(args[0], inputs[: len(tf.nest.flatten(args[0]))])
            elif len(inputs) == 1:
                (inputs,) = inputs
            for identity in self.functions:  # as attributes they are layers
                self.copies.pop(identity, None)
            fresh = functional_like(layer, inputs, outputs, Again(self.copies, self.again))
        except CalledDifferentlyError:
            raise
        except Exception as error:  # whatever a call raises on symbols
            for known, before in kept:
                known.clear()
                known.update(before)
            raise NotOpenedError(in_words(error)) from error
        if isinstance(fresh, KerasOpenedModel):
            fresh.recorded = CallForm(recording.form.signature, [], recording.form.constants)
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
    """In what the graph of a layer differs from a call of the layer; empty for in nothing."""
    try:
        values = tf.nest.flatten(graph(*args, **kwargs))
    except Exception as error:  # whatever a graph raises on a batch that its symbols did not foresee
        return f"as a graph it does not take the calibration data: {first_line(error)}"
    for value, right in zip(values, tf.nest.flatten(result), strict=True):
        one, two = (tf.cast(each, tf.float64).numpy() for each in (value, right))
        if one.shape != two.shape or not np.allclose(one, two, rtol=0, atol=_TOLERANCE * (np.abs(two).max(initial=0))):
            return "as a graph it computes something else on the calibration data"
    return ""


def _opens(layer: Any) -> bool:
    """Whether what a layer computes is worth a graph of its own: all but those of Keras that do one thing."""
    if is_graph(layer):
        return not getattr(layer, "inputs", None)  # a Sequential that does not know its input
    if isinstance(layer, keras.Model):
        return True
    if follows_keras(layer):
        return any(cls.__name__ in _OF_LAYERS for cls in type(layer).__mro__)
    return not isinstance(layer, keras.layers.RNN)


class _Drawing:
    """A recorded call while it becomes the graph of a copy."""

    def __init__(self, recording: Recording, opening: _Opening) -> None:
        self.recording = recording
        self.opening = opening
        self.names = _Names()
        self.weights: dict[int, KerasWeight] = {}  # by identity of the symbol
        self.symbols: dict[int, Any] = {}  # of the copy, by identity of the symbol
        self.inlined = {id(owner): owner for owner in recording.owners_of_used() if owner is not recording.layer}
        for symbol in recording.weights_to_read():
            self.weights[id(symbol)] = self._weight(symbol)

    def _weight(self, symbol: Any) -> KerasWeight:
        owner, path, variable = self.recording.weights[id(symbol)]
        name = path.strip("_") if owner is self.recording.layer else f"{owner.name}_{path.strip('_')}"
        layer = KerasWeight(
            tuple(variable.shape),
            weight_dtype=tf.as_dtype(variable.dtype).name,
            weight_trainable=variable.trainable,
            regularizer=getattr(variable, "regularizer", None),
            constraint=getattr(variable, "constraint", None),
            name=self.names.unique(name),
            dtype=getattr(owner, "dtype_policy", None),
        )
        layer.build(None)
        layer.weight.assign(variable)
        return layer

    def stand_in(self, call: Call) -> Any:
        """What stands for a call: a layer or function, or for a weight that was read the layer that gives it."""
        if call.node.is_input:
            (symbol,) = tf.nest.flatten(call.node.outputs)
            return lambda first: self._read(symbol, first)
        if id(call.layer) in self.inlined:
            return lambda *args, **kwargs: self.recording.inline(call.layer, self.symbols, args, kwargs)
        known = id(call.layer) in self.opening.copies
        fresh = self.opening.again(call.layer, call)
        if fresh is not None and not known and hasattr(fresh, "name"):
            self.names.give(fresh, self.recording.names.get(id(call.layer)), word_of(fresh))
        return self.recording.in_context(call, fresh)

    def _read(self, symbol: Any, first: Any) -> Any:
        if id(symbol) not in self.symbols:
            self.symbols[id(symbol)] = self.weights[id(symbol)](first)
        return self.symbols[id(symbol)]

    def settle(self) -> None:
        """Let the attributes of the copy be the weights that its graph reads."""
        for identity, layer in self.weights.items():
            owner, _, variable = self.recording.weights[identity]
            self.opening.copies[id(variable)] = layer.weight
            if owner is not self.recording.layer:
                self.opening.copies.setdefault(id(owner), layer)


class _Names:
    """Names of the layers and functions of a graph: attributes of the layer that was opened, and words of functions."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._given: set[int] = set()

    def unique(self, name: str) -> str:
        self._count[name] += 1
        return name if self._count[name] == 1 else self.unique(f"{name}_{self._count[name] - 1}")

    def give(self, fresh: Any, path: str | None, word: str) -> None:
        """Name a layer after its attribute, and a function by its word."""
        self._given.add(id(fresh))
        of_layer = isinstance(fresh, keras.layers.Layer)
        by_word = not of_layer or type(fresh).__name__ in ("TFOpLambda", "SlicingOpLambda", "Softmax", "KerasEinsum")
        if path is None and by_word:
            path = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in word)
        rename(fresh, self.unique(path.strip("_") if path else fresh.name))

    def of_functions(self, outputs: Any) -> None:
        """Name the functions that have no name of this graph yet."""
        for layer, _ in behind(outputs):
            unnamed = not isinstance(layer, keras.layers.Layer) or type(layer).__name__ in ("Softmax", "KerasEinsum")
            if unnamed and id(layer) not in self._given:
                self.give(layer, None, word_of(layer))
