"""Sequential and functional models as calls of layers, and a model rebuilt from other layers."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, keras

OUTPUT = "(output)"
"""Stands among the users of a call whose result the model gives."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer.

    Args:
        graph: Identity of the model that makes it.
        layer: The layer, or the operation.
        index: How many calls of the same layer come before it.
        inputs: Calls whose results it takes.
        users: Calls that take its result; ``OUTPUT`` for the end of the model.
        node: What Keras keeps of it; None in a Sequential.
    """

    graph: int
    layer: Any
    index: int
    inputs: tuple[Call, ...]
    users: list[Any]
    node: Any = None

    @property
    def place(self) -> tuple[int, int, int]:
        """What tells its result from others, each time that the model is asked for its calls."""
        return self.graph, id(self.layer), self.index

    @property
    def masked(self) -> bool:
        """Whether its result carries the mask of a sequence, in Keras 2."""
        return masked(self.layer._inbound_nodes if self.node is None else [self.node])


def masked(nodes: Any) -> bool:
    """Whether a result of calls carries the mask of a sequence; Keras 3 hands masks on by itself."""
    tensors = [] if KERAS_3 else [tensor for node in nodes for tensor in tf.nest.flatten(node.outputs)]
    return any(getattr(tensor, "_keras_mask", None) is not None for tensor in tensors)


def is_graph(model: Any) -> bool:
    """Whether it is a Sequential or functional model: one whose layers can be called one by one.

    Example:
        >>> is_graph(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])), is_graph(keras.layers.ReLU())
        (True, False)
    """
    return bool({cls.__name__ for cls in type(model).__mro__} & {"Sequential", "Functional"})  # no public name


def input_tensors(model: Any) -> list[Any]:
    """The symbols of what a graph takes, in the order in which its inputs are flattened."""
    return tf.nest.flatten(model.inputs if isinstance(model, keras.Sequential) else model.input)


def input_layers(model: Any) -> list[Any]:
    """The layers of the inputs, in the same order."""
    return [tensor._keras_history[0] for tensor in input_tensors(model)]


def calls_of(model: Any) -> list[Call]:
    """The calls of a built model in order of execution, those of its inputs included; inner models are one call."""
    return _chain(model) if isinstance(model, keras.Sequential) else _calls(model)


def rebuild(model: Any, layer_of: Callable[[Any], Any], after: Callable[[Call], Any]) -> Any:
    """The model again, of other layers.

    Args:
        model: A built Sequential or functional model.
        layer_of: The layer that stands for one of the model; None passes its input on.
        after: A layer that its result goes through; None for none.
    """
    return (_rebuild_sequential if isinstance(model, keras.Sequential) else _rebuild)(model, layer_of, after)


def _chain(model: Any) -> list[Call]:
    (source,) = input_layers(model)
    calls = [Call(id(model), source, 0, (), [])]  # a model that its first batch built has one too
    for layer in model.layers:
        call = Call(id(model), layer, 0, (calls[-1],), [])
        calls[-1].users.append(call)
        calls.append(call)
    calls[-1].users.append(OUTPUT)
    return calls


def _rebuild_sequential(model: Any, layer_of: Callable[[Any], Any], after: Callable[[Call], Any]) -> Any:
    source, *calls = calls_of(model)
    layers = [keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name=source.layer.name), after(source)]
    for call in calls:
        layers += [layer_of(call.layer), after(call)]
    return keras.Sequential([layer for layer in layers if layer is not None], name=model.name)


def _calls(model: Any) -> list[Call]:
    counts: Counter[int] = Counter()
    producers: dict[int, Call] = {}
    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation if KERAS_3 else node.layer
            read = {id(producers[id(t)]): producers[id(t)] for t in _tensors(node) if id(t) in producers}
            call = Call(id(model), layer, counts[id(layer)], tuple(read.values()), [], node)
            counts[id(layer)] += 1
            for before in call.inputs:
                before.users.append(call)
            for tensor in tf.nest.flatten(node.outputs):
                producers[id(tensor)] = call
            calls.append(call)
    for tensor in model.outputs:
        producers[id(tensor)].users.append(OUTPUT)
    return calls


def _arguments(node: Any) -> tuple[Any, Any]:
    return (node.arguments.args, node.arguments.kwargs) if KERAS_3 else (node.call_args, node.call_kwargs)


def _tensors(node: Any) -> list[Any]:
    return [] if node.is_input else tf.nest.flatten(_arguments(node))


def _rebuild(model: Any, layer_of: Callable[[Any], Any], after: Callable[[Call], Any]) -> Any:
    values: dict[int, Any] = {}
    begin: dict[int, Any] = {}

    def now(tensor: Any) -> Any:
        return values.get(id(tensor), tensor)

    for call in calls_of(model):
        if type(call.layer).__name__ == "AddLoss":
            advice = "let a layer add it in its call, self.add_loss(...), or a train_step of your own"
            raise invalid(model.name, "loss", "part of a layer", "model.add_loss(tensor)", advice)
        if call.node.is_input:
            (tensor,) = tf.nest.flatten(call.node.outputs)
            kind = _kind_of_input(call.layer)
            result = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=call.layer.name, **kind)
            begin[id(tensor)] = result
        else:
            args, kwargs = tf.nest.map_structure(now, _arguments(call.node))
            layer = layer_of(call.layer)
            result = args[0] if layer is None else _call(layer, call.layer, args, kwargs)
        follower = after(call)
        if follower is not None:
            result = follower(result)
        for old, new in zip(tf.nest.flatten(call.node.outputs), tf.nest.flatten(result), strict=True):
            values[id(old)] = new
    inputs = tf.nest.map_structure(lambda tensor: begin[id(tensor)], model.input)
    outputs = tf.nest.map_structure(now, model.output)
    functional = type(keras.Model(inputs, outputs))
    kind_of_model = type(model) if type(model).__init__ is functional.__init__ else keras.Model
    return kind_of_model(inputs, outputs, name=model.name)


def _call(layer: Any, old: Any, args: Any, kwargs: Any) -> Any:
    """Call a layer as an old one was called; a wrapper by names, since Keras 2 saves no more than those."""
    if _takes_any(old) or not _takes_any(layer):
        return layer(*args, **kwargs)
    parameters = inspect.signature(old.call).parameters
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    first = given.pop(next(iter(parameters)))
    return layer(first, **given)


def _takes_any(layer: Any) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(layer.call).parameters.values()}
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _kind_of_input(layer: Any) -> dict[str, Any]:
    config = layer.get_config()
    return {key: config[key] for key in ("sparse", "ragged", "optional") if config.get(key)}
