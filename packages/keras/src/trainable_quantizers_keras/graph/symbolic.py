"""Records the call of a model or layer on symbolic tensors."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from trainable_quantizers_keras.graph.contexts import (
    holding,
    names_apart,
    watching_attributes,
    watching_constants,
    without_traces,
)
from trainable_quantizers_keras.graph.kinds import draws, is_identity, word_of
from trainable_quantizers_keras.graph.watch import replaced_calls
from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.attributes import variables_in
from trainable_quantizers_keras.layers.call_form import CallForm, is_symbol
from trainable_quantizers_keras.layers.calls import Call, arguments_of, behind, calls_of
from trainable_quantizers_keras.layers.copies import INTERNAL, is_of_keras, parts_of
from trainable_quantizers_keras.layers.function import functions_on_symbols
from trainable_quantizers_keras.layers.sizes import sizes_as_symbols


class NotOpenedError(Exception):
    """A call cannot be recorded; the message says why."""


def in_words(error: Exception) -> str:
    """The reason why a call was not recorded, as text."""
    return str(error) if isinstance(error, NotOpenedError) else f"its call does not take symbols: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the place that Keras adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return (lines or [type(error).__name__])[0][:150].replace("\x1b[1m", "").replace("\x1b[0m", "")


class Recording:
    """The recorded call of a model or layer on symbols like its arguments.

    Layers that it calls are operations of the graph. The weights that its own code reads, also those of layers that it
    holds, are inputs of the graph.

    Args:
        layer: Is called twice, as in evaluation and as in training, and stays as it is.
        args: Arguments of its call, symbols among them.
        kwargs: Arguments by name.

    Raises:
        NotOpenedError: the call differs in training, gives anything but symbols, or reads variables or random
            numbers apart from its inputs, which would become constants.
    """

    def __init__(self, layer: Any, args: Any, kwargs: Any) -> None:
        self.layer = layer
        self.weights: dict[int, tuple[Any, str, Any]] = {}
        """By identity of a symbol: the layer that holds the weight, where, and the variable."""
        self.slots: dict[int, dict[str, Any]] = {}
        """By identity of a layer: values of the attributes that hold variables."""
        self._symbols: dict[int, Any] = {}  # by identity of the variable
        self.names = {id(part): path for path, part in parts_of(layer).items()}
        self.read: set[str] = set()
        """Names of attributes that the call reads."""
        self.form = CallForm.of(inspect.signature(layer.call), args, kwargs)
        with without_traces(layer), names_apart(layer), self._reading_symbols(), self._without_calls():
            self._evaluation = self._run(args, kwargs, False)
            self._training = self._run(args, kwargs, True) if self._takes_training() else self._evaluation
            self.inputs, self.outputs, self.calls = self._training
            self._in_training = self._compared()

    def _takes_training(self) -> bool:
        return "training" in self.form.signature.parameters

    def _run(self, args: Any, kwargs: Any, training: bool) -> tuple[list[Any], Any, list[Call]]:
        inner: dict[int, Any] = {}
        for outer in self.form.tensors:
            if id(outer) not in inner:  # a name that is the same each time, for the rules of recipes
                name = f"inputs_{len(inner)}" if inner else "inputs"
                name += "_" * (name in self.names.values())
                inner[id(outer)] = keras.Input(batch_shape=outer.shape, dtype=self._dtype(outer), name=name)
        for outer in self.form.tensors:
            mask = getattr(outer, "_keras_mask", None)
            if mask is not None and id(mask) in inner:
                inner[id(outer)]._keras_mask = inner[id(mask)]
        if not inner:
            raise NotOpenedError("it is called without a tensor")
        named = tf.nest.map_structure(lambda value: inner.get(id(value), value), self.form.named)
        if self._takes_training():
            named["training"] = kwargs["training"] if kwargs.get("training") is not None else training
        bound = inspect.BoundArguments(self.form.signature, named)
        found: set[str] = set()
        watching = watching_constants(found), watching_attributes(self.layer, self.read), _without_losses(self.layer)
        with functions_on_symbols(), sizes_as_symbols(), watching[0], watching[1], watching[2]:
            outputs = self.layer.call(*bound.args, **bound.kwargs)
        outputs = tf.nest.map_structure(lambda value: _as_symbol(value, next(iter(inner.values()))), outputs)
        flat = tf.nest.flatten(outputs)
        if not any(is_symbol(value) for value in flat):
            raise NotOpenedError("its result does not consist of tensors")
        for layer, node in behind(flat):
            found |= {"variables"} if not node.is_input and variables_in(arguments_of(node)) else set()
            found |= {"random numbers"} if draws(layer) else set()
        if found:
            raise NotOpenedError(f"it computes with {' and '.join(sorted(found))} that do not come from its inputs")
        inputs = [inner[id(outer)] for outer in self.form.tensors]
        outputs = tf.nest.map_structure(lambda symbol: _apart(symbol, inputs), outputs)
        flat = tf.nest.flatten(outputs)
        read = {id(symbol) for _, node in behind(flat) if node.is_input for symbol in tf.nest.flatten(node.outputs)}
        weights = [symbol for symbol in self._symbols.values() if id(symbol) in read]
        return inputs, outputs, calls_of(keras.Model([*inputs, *weights], flat))

    def _dtype(self, outer: Any) -> Any:
        """The dtype of a tensor inside the layer, which casts floating tensors to its compute dtype."""
        casts = getattr(self.layer, "autocast", getattr(self.layer, "_autocast", False))
        floating = tf.as_dtype(outer.dtype).is_floating
        return self.layer.compute_dtype if casts and floating else outer.dtype

    def _compared(self) -> set[tuple[int, int]]:
        """The calls that get the layer's ``training``, by identity of their layer and count."""

        def described(calls: list[Call]) -> Counter[Any]:
            found = [call.layer for call in calls if not call.node.is_input and not is_identity(call.layer)]
            return Counter(id(layer) if getattr(layer, "weights", ()) else word_of(layer) for layer in found)

        (_, _, evaluation), (_, _, training) = self._evaluation, self._training
        if described(evaluation) != described(training):
            raise NotOpenedError("it computes differently in training and in evaluation")
        told = {(id(call.layer), call.index): _training_of(call) for call in evaluation}
        return {
            (id(call.layer), call.index)
            for call in training
            if _training_of(call) is True and told.get((id(call.layer), call.index)) is not True
        }

    def in_context(self, call: Call, layer: Any) -> Any:
        """A layer as the graph calls it: one that was passed ``training`` finds it out by itself."""
        if (id(call.layer), call.index) not in self._in_training or not isinstance(layer, keras.layers.Layer):
            return layer

        def without_training(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop("training", None)
            return layer(*[arg for arg in args if arg is not True], **kwargs)

        return without_training

    def owners_of_used(self) -> list[Any]:
        """The layers whose weights are inputs of the graph."""
        used = {id(tf.nest.flatten(call.node.outputs)[0]) for call in self.calls if call.node.is_input}
        return [owner for identity, (owner, _, _) in self.weights.items() if identity in used]

    def weights_to_read(self) -> list[Any]:
        """The symbols of weights that the graph reads, and the other weights of the layers that hold these."""
        used = {id(tf.nest.flatten(call.node.outputs)[0]) for call in self.calls if call.node.is_input}
        owners = {id(owner) for owner in self.owners_of_used() if owner is not self.layer}
        return [
            symbol
            for symbol in self._symbols.values()
            if id(symbol) in used or id(self.weights[id(symbol)][0]) in owners
        ]

    def inline(self, layer: Any, symbols: dict[int, Any], args: Any, kwargs: Any) -> Any:
        """Call a layer on symbols, with symbols for its weights."""

        def now(value: Any) -> Any:
            return symbols[id(self._symbols[id(value)])] if id(value) in self._symbols else value

        values = {slot: tf.nest.map_structure(now, value) for slot, value in self.slots[id(layer)].items()}
        with functions_on_symbols(), sizes_as_symbols(), holding(layer, values):
            return layer.call(*args, **kwargs)

    @contextmanager
    def _reading_symbols(self) -> Iterator[None]:
        """Symbols in the places of all variables, but for the time that a layer inside is called."""
        layers = list(self.layer._flatten_layers())
        for layer in layers:
            self.slots[id(layer)] = {
                name: value for name, value in vars(layer).items() if name not in INTERNAL and variables_in(value)
            }
            for name, value in self.slots[id(layer)].items():
                for variable in variables_in(value):
                    if id(variable) not in self._symbols:
                        floating = tf.as_dtype(variable.dtype).is_floating
                        dtype = layer.compute_dtype if floating else variable.dtype
                        symbol = _symbol_of(tuple(variable.shape), dtype)
                        self._symbols[id(variable)] = symbol
                        self.weights[id(symbol)] = (layer, name, variable)

        def put(symbolic: bool) -> None:
            for layer in layers:
                for name, value in self.slots[id(layer)].items():
                    vars(layer)[name] = tf.nest.map_structure(self._symbol, value) if symbolic else value

        depth = 0

        def with_variables(call: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(call)
            def called(*args: Any, **kwargs: Any) -> Any:
                nonlocal depth
                depth += 1
                put(symbolic=False)
                try:
                    return call(*args, **kwargs)
                finally:
                    depth -= 1
                    put(symbolic=not depth)

            return called

        inside = [layer for layer in layers if layer is not self.layer]
        with replaced_calls(inside, lambda layer, call: with_variables(call)):
            put(symbolic=True)
            try:
                yield
            finally:
                put(symbolic=False)

    @contextmanager
    def _without_calls(self) -> Iterator[None]:
        """Inner layers that cannot be operations of Keras 3, unlike the operations that they call.

        They are called on constants, give results other than tensors, or do not declare their results.
        """
        inside = {id(layer) for layer in self.layer._flatten_layers(include_self=False)}
        call_of_layer = keras.layers.Layer.__call__

        @functools.wraps(call_of_layer)
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            constant = not any(map(is_symbol, tf.nest.flatten((args, kwargs))))
            if id(layer) not in inside or (constant and not layer.weights):
                return call_of_layer(layer, *args, **kwargs)
            try:
                if not constant:
                    return call_of_layer(layer, *args, **kwargs)
            except (TypeError, ValueError):
                if is_of_keras(layer):
                    raise
            within = self.names.get(id(layer), layer.name)
            self.names.update({id(part): f"{within}.{path}" for path, part in parts_of(layer).items()})
            return type(layer).call(layer, *args, **kwargs)

        keras.layers.Layer.__call__ = call if KERAS_3 else call_of_layer
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = call_of_layer

    def _symbol(self, value: Any) -> Any:
        return self._symbols.get(id(value), value)


def _apart(symbol: Any, inputs: list[Any]) -> Any:
    """A result that is not an input itself: otherwise a nested graph would return its own argument."""
    same = any(symbol is each for each in inputs)
    return keras.layers.Activation("linear", name="identity")(symbol) if same else symbol


def _symbol_of(shape: tuple[int, ...], dtype: Any) -> Any:
    if KERAS_3:
        return keras.Input(batch_shape=shape, dtype=dtype)
    return keras.Input(type_spec=tf.TensorSpec(shape, dtype))  # the shape of a scalar is no batch_shape to Keras 2


def _training_of(call: Call) -> Any:
    if call.node.is_input:
        return None
    args, kwargs = arguments_of(call.node)
    return kwargs.get("training", True if any(arg is True for arg in args) else None)


@contextmanager
def _without_losses(layer: Any) -> Iterator[None]:
    """Refuse a call that adds losses or metrics, which its graph would not hold."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotOpenedError("it adds a loss or a metric")

    vars(layer).update(add_loss=refuse, add_metric=refuse)
    try:
        yield
    finally:
        del vars(layer)["add_loss"], vars(layer)["add_metric"]


def _as_symbol(value: Any, given: Any) -> Any:
    """A result of a call on symbols; for a constant, a symbol with its value for any input.

    Raises:
        NotOpenedError: it is not a tensor.
    """
    if is_symbol(value):
        return value
    if not isinstance(value, (tf.Tensor, np.ndarray)):
        raise NotOpenedError("its result does not consist of tensors")
    ops = keras.ops if KERAS_3 else tf
    nothing = (ops.sum if KERAS_3 else ops.reduce_sum)(ops.zeros_like(given))
    return ops.add(ops.cast(nothing, value.dtype.name), value)
