"""Models and layers whose calls are written in Python, as graphs, like functional models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from trainable_quantizers_keras.graph.attention import attention_of
from trainable_quantizers_keras.graph.kinds import follows_keras, word_of
from trainable_quantizers_keras.graph.parts import first_part, second_part
from trainable_quantizers_keras.graph.symbolic import NotOpenedError, Recording, in_words
from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.calls import Call, arguments_of, behind, is_graph, redrawn
from trainable_quantizers_keras.layers.copies import copied, parts_of
from trainable_quantizers_keras.layers.function import einsum
from trainable_quantizers_keras.layers.opened import (
    Again,
    CalledDifferentlyError,
    CallForm,
    KerasOpenedModel,
    functional_like,
)
from trainable_quantizers_keras.layers.weight import KerasWeight

_OF_LAYERS = ("MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention", "Lambda")
"""Layers of Keras that compute by other layers or by functions."""
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
    closed: set[int] = set()
    while True:
        opening = _Opening(closed)
        try:
            return opening.model(model, example)
        except CalledDifferentlyError as error:
            closed.add(error.layer)


@dataclass
class _Opening:
    """One attempt.

    Args:
        closed: Identities of layers that are called in several ways, and stay as they are.
        copies: What stands for layers and variables, by identity.
        notes: By identity of a layer of the original.
        following: What results of layers go through, by identity of the layer.
        alive: Keeps symbols, whose identities tell them apart.
    """

    closed: set[int]
    copies: dict[int, Any] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    following: dict[int, Any] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)

    def model(self, model: Any, example: Any) -> Opened:
        """The copy of a model."""
        if is_graph(model) and getattr(model, "inputs", None):
            fresh = self.again(model)
        else:
            fresh = self._subclassed(model, example)
        notes = {id(self.copies[key]): note for key, note in self.notes.items() if key in self.copies}
        return Opened(fresh, notes)

    def again(self, layer: Any, call: Call | None = None) -> Any:
        """The copy of a layer."""
        return copied(layer, self._replace, self._after, self.copies, call)

    def _subclassed(self, model: Any, example: Any) -> Any:
        reason = "no calibration data show what it takes"
        for inputs in symbols_like(example) if example is not None else ():
            try:
                return self._record(model, (inputs,), {}, nested=True)
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
        if id(layer) in self.closed:
            self.notes[id(layer)] = "not opened: it is called in several ways"
            return layer
        try:
            args, kwargs = ((layer.input,), {}) if call.node is None else arguments_of(call.node)
            return self._record(layer, args, kwargs)
        except (NotOpenedError, AttributeError) as error:  # the latter from a layer that a Sequential calls twice
            self.notes[id(layer)] = f"not opened: {error}"
            return layer

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
        before = dict(self.copies), dict(self.notes), dict(self.following)
        try:
            recording = Recording(layer, args, kwargs)
            self.alive.append(recording)
            drawing = _Drawing(recording, self)
            inputs, outputs = redrawn(
                recording.calls, recording.inputs, recording.outputs, drawing.stand_in, self._after
            )
            drawing.settle()
            drawing.names.of_functions(outputs)
        except CalledDifferentlyError:
            raise
        except Exception as error:  # whatever a call raises on symbols
            self.copies, self.notes, self.following = before
            raise NotOpenedError(in_words(error)) from error
        if nested:
            inputs = tf.nest.pack_sequence_as(args[0], inputs[: len(tf.nest.flatten(args[0]))])
        elif len(inputs) == 1:
            (inputs,) = inputs
        fresh = functional_like(layer, inputs, outputs, Again(self.copies, self.again))
        if isinstance(fresh, KerasOpenedModel):
            fresh.recorded = CallForm(recording.form.signature, [], recording.form.constants)
        if not layer.trainable:
            fresh.trainable = False
        self.copies[id(layer)] = fresh
        return fresh


def symbols_like(example: Any) -> Iterator[Any]:
    """Symbols for inputs like an example: first of any size but for the channels, then of its size."""
    for free in (True, False):

        def symbol(value: Any, free: bool = free) -> Any:
            shape = list(value.shape)
            kept = shape[-1:] if value.dtype.is_floating and len(shape) > 1 else []
            sizes = [None] * (len(shape) - len(kept)) + kept if free else [None, *shape[1:]]
            return keras.Input(batch_shape=sizes if shape else (), dtype=value.dtype)

        yield tf.nest.map_structure(symbol, example)


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
        setattr(fresh, "name" if KERAS_3 else "_name", self.unique(path.strip("_") if path else fresh.name))

    def of_functions(self, outputs: Any) -> None:
        """Name the functions that have no name of this graph yet."""
        for layer, _ in behind(outputs):
            unnamed = not isinstance(layer, keras.layers.Layer) or type(layer).__name__ in ("Softmax", "KerasEinsum")
            if unnamed and id(layer) not in self._given:
                self.give(layer, None, word_of(layer))
