"""The layer calls of Sequential and functional models, and rebuilding a model from other layers."""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.attributes import Again
from trainable_quantizers_keras.layers.opened import KerasOpenedModel, functional_like


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer.

    Args:
        graph: Identity of the model that makes it.
        layer: The layer, or the operation.
        index: How many calls of the same layer come before it.
        arguments: Of each tensor among its arguments, the call that gives it, and which of its results that is.
        node: Keras's record of it; None in a Sequential.
    """

    graph: int
    layer: Any
    index: int
    arguments: tuple[tuple[Call, int], ...]
    node: Any = None

    @property
    def inputs(self) -> tuple[Call, ...]:
        """The calls whose results it takes, each once."""
        return tuple(dict.fromkeys(call for call, _ in self.arguments))

    @property
    def results(self) -> list[Any]:
        """The symbols of its results; one None in a Sequential."""
        return [None] if self.node is None else tf.nest.flatten(self.node.outputs)

    @property
    def place(self) -> tuple[int, int, int]:
        """A key of its result, the same each time that the model is asked for its calls."""
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

    Examples:
        >>> is_graph(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])), is_graph(keras.layers.ReLU())
        (True, False)
    """
    return bool({cls.__name__ for cls in type(model).__mro__} & {"Sequential", "Functional"})  # no public name


def input_tensors(model: Any) -> list[Any]:
    """The symbols of a graph's inputs, in the order in which they are flattened."""
    return tf.nest.flatten(model.inputs if isinstance(model, keras.Sequential) else model.input)


def input_layers(model: Any) -> list[Any]:
    """The layers of the inputs, in the same order."""
    return [tensor._keras_history[0] for tensor in input_tensors(model)]


def calls_of(model: Any) -> list[Call]:
    """The calls of a built model in order of execution, those of its inputs included; inner models are one call."""
    return _chain(model) if isinstance(model, keras.Sequential) else _calls(model)


def rebuild(model: Any, stand_in: Callable[[Call], Any], after: Callable[[Call], Any], again: Again) -> Any:
    """Rebuild a model from other layers, with the same class and attributes.

    Args:
        model: A built Sequential or functional model.
        stand_in: Gives the layer or function that replaces that of a call; None passes the input on.
        after: Gives the layer that the result of a call goes through, or None.
        again: Gives the replacements of layers and variables among the model's attributes.
    """
    if isinstance(model, keras.Sequential):
        return _rebuild_sequential(model, stand_in, after)
    return functional_like(model, *redrawn(calls_of(model), model.input, model.output, stand_in, after), again)


def _chain(model: Any) -> list[Call]:
    (source,) = input_layers(model)
    calls = [Call(id(model), source, 0, ())]  # a model that its first batch built has one too
    for layer in model.layers:
        calls.append(Call(id(model), layer, 0, ((calls[-1], 0),)))
    return calls


def ends_of(model: Any, calls: Sequence[Call]) -> list[tuple[Call, int]]:
    """For each output of a model, the call that gives it, and the index among its results."""
    if isinstance(model, keras.Sequential):
        return [(calls[-1], 0)]
    producers = {id(symbol): (call, at) for call in calls for at, symbol in enumerate(call.results)}
    return [producers[id(symbol)] for symbol in model.outputs]


def _rebuild_sequential(model: Any, stand_in: Callable[[Call], Any], after: Callable[[Call], Any]) -> Any:
    source, *calls = calls_of(model)
    layers = [keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name=source.layer.name), after(source)]
    for call in calls:
        layer, follower = stand_in(call), after(call)
        if not (follower is None or isinstance(follower, keras.layers.Layer)):
            before = [*model.layers[: model.layers.index(call.layer)], layer]
            follower = _as_layer(follower, before, model.input_shape, f"{call.layer.name}_function")
        layers += [layer, follower]
    return keras.Sequential([layer for layer in layers if layer is not None], name=model.name)


def _as_layer(function: Callable[[Any], Any], before: Sequence[Any], shape: Any, name: str) -> Any:
    """A function of the output of earlier layers, as a model: a Sequential takes no functions."""
    for layer in before:
        shape = layer.compute_output_shape(shape)
    symbol = keras.Input(shape[1:], dtype=before[-1].compute_dtype)
    return keras.Model(symbol, function(symbol), name=name)


def _calls(model: Any) -> list[Call]:
    counts: Counter[int] = Counter()
    producers: dict[int, tuple[Call, int]] = {}
    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation if KERAS_3 else node.layer
            read = tuple(producers[id(tensor)] for tensor in _tensors(node) if id(tensor) in producers)
            call = Call(id(model), layer, counts[id(layer)], read, node)
            counts[id(layer)] += 1
            producers.update({id(symbol): (call, at) for at, symbol in enumerate(call.results)})
            calls.append(call)
    return calls


def arguments_of(node: Any) -> tuple[Any, Any]:
    """Positional and keyword arguments of a call in a graph."""
    return (node.arguments.args, node.arguments.kwargs) if KERAS_3 else (node.call_args, node.call_kwargs)


def behind(values: Any) -> Iterator[tuple[Any, Any]]:
    """Layers, or operations, and their nodes in the graph that symbols come from, the nearest first."""
    found = set()
    waiting = deque(value for value in tf.nest.flatten(values) if hasattr(value, "_keras_history"))
    while waiting:
        layer, index = waiting.popleft()._keras_history[:2]
        node = layer._inbound_nodes[index]
        if id(node) not in found:
            found.add(id(node))
            yield layer, node
            waiting += [value for value in _tensors(node) if hasattr(value, "_keras_history")]


def _tensors(node: Any) -> list[Any]:
    return [] if node.is_input else tf.nest.flatten(arguments_of(node))


def redrawn(
    calls: Sequence[Call],
    inputs: Any,
    outputs: Any,
    stand_in: Callable[[Call], Any],
    after: Callable[[Call], Any],
) -> tuple[Any, Any]:
    """Inputs and outputs of a redrawn graph.

    Args:
        calls: Its calls in order of execution.
        inputs: The symbols of its inputs. Other inputs become what ``stand_in`` gives, called on the first of these.
        outputs: The symbols of its outputs.
        stand_in: As of ``rebuild``.
        after: As of ``rebuild``.
    """
    values: dict[int, Any] = {}
    begin: dict[int, Any] = {}
    given = {id(tensor) for tensor in tf.nest.flatten(inputs)}

    def now(value: Any) -> Any:
        if isinstance(value, type):
            return tf.as_dtype(value).name  # files of Keras 2 do not keep ``bool``
        return values.get(id(value), value)

    def is_given(call: Call) -> bool:
        return call.node.is_input and id(tf.nest.flatten(call.node.outputs)[0]) in given

    for call in sorted(calls, key=lambda call: (not is_given(call), not call.node.is_input)):
        if type(call.layer).__name__ == "AddLoss":
            advice = "let a layer add it in its call, self.add_loss(...), or a train_step of your own"
            raise invalid("prepare", "loss", "part of a layer", "model.add_loss(tensor)", advice)
        if is_given(call):
            (tensor,) = tf.nest.flatten(call.node.outputs)
            kind = _kind_of_input(call.layer)
            result = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=call.layer.name, **kind)
            begin[id(tensor)] = result
        elif call.node.is_input:
            result = stand_in(call)(next(iter(begin.values())))
        else:
            args, kwargs = tf.nest.map_structure(now, arguments_of(call.node))
            layer = stand_in(call)
            result = args[0] if layer is None else _call(layer, call.layer, args, kwargs)
        follower = after(call)
        if follower is not None:
            result = follower(result)
        for old, new in zip(tf.nest.flatten(call.node.outputs), tf.nest.flatten(result), strict=True):
            values[id(old)] = new
    return tf.nest.map_structure(lambda tensor: begin[id(tensor)], inputs), tf.nest.map_structure(now, outputs)


def _call(layer: Any, old: Any, args: Any, kwargs: Any) -> Any:
    """Call a layer as an old one was called; a wrapper by keyword, since Keras 2 saves only keyword arguments."""
    if isinstance(layer, KerasOpenedModel) and not is_graph(old):
        return layer.call_as(old, args, kwargs)
    if not isinstance(layer, keras.layers.Layer) or _takes_any(old) or not _takes_any(layer):
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
