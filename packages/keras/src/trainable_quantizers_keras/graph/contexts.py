"""Contexts for recording the call of a layer: some observe it, some change its attributes for the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorflow.python.framework import op_callbacks

from trainable_quantizers_keras.keras_version import rename
from trainable_quantizers_keras.layers.copies import INTERNAL


@contextmanager
def watching_constants(found: set[str]) -> Iterator[None]:
    """Notice operations that run now, and not in the graph."""

    def see(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        word = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
        if graph is None and (word == "ReadVariableOp" or "Random" in word):
            found.add("variables" if word == "ReadVariableOp" else "random numbers")

    op_callbacks.add_op_callback(see)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(see)


@contextmanager
def watching_attributes(layer: Any, found: set[str]) -> Iterator[None]:
    """Notice the attributes of a layer that are read, but for those that every layer has."""
    kind: Any = type(layer)
    own, read = vars(kind).get("__getattribute__"), kind.__getattribute__

    def see(self: Any, name: str) -> Any:
        if self is layer and name not in INTERNAL:
            found.add(name)
        return read(self, name)

    kind.__getattribute__ = see
    try:
        yield
    finally:
        if own is None:
            del kind.__getattribute__
        else:
            kind.__getattribute__ = own
        found &= vars(layer).keys()


@contextmanager
def holding(layer: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set other values of attributes inside the context."""
    kept = {name: vars(layer)[name] for name in values}
    vars(layer).update(values)
    try:
        yield
    finally:
        vars(layer).update(kept)


@contextmanager
def names_apart(layer: Any) -> Iterator[None]:
    """Rename the layers inside, since a graph must not hold two of the same name."""
    named = [(each, each.name) for each in layer._flatten_layers(include_self=False)]
    for number, (each, name) in enumerate(named):
        rename(each, f"{name}_{number}")
    try:
        yield
    finally:
        for each, name in named:
            rename(each, name)


@contextmanager
def without_traces(layer: Any) -> Iterator[None]:
    """Forget the calls recorded inside the context, which Keras keeps in the layers."""
    lists = [
        nodes
        for each in layer._flatten_layers()
        for nodes in (getattr(each, "_inbound_nodes", None), getattr(each, "_outbound_nodes", None))
        if isinstance(nodes, list)
    ]
    lengths = [len(nodes) for nodes in lists]
    try:
        yield
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            del nodes[length:]
