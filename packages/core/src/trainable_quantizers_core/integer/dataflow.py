"""A deployed network in a framework-free form: operations on float tensors of fixed shapes, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import QuantizerError, invalid
from trainable_quantizers_core.integer.tie_rules import TieRules


@dataclass(frozen=True, eq=False)
class Node:
    """An operation on float tensors.

    Args:
        kind: The kind of operation: a key of ``arithmetic.FLOAT``, or ``"quantize"`` or ``"input"``.
        name: Its place in the network, for messages.
        inputs: Its inputs: other nodes, and arrays for constants.
        attributes: Arguments that are no tensors.
        shape: Of its result, for one sample.
        function: For an elementwise operation, the operation itself: of arrays of any one shape for those inputs that
            are nodes, as the framework computes it. Tables are made with it.
    """

    kind: str
    name: str
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., np.ndarray] | None = None


def no_definition(kind: str, name: str) -> QuantizerError:
    """The error for an operation that integer programs do not know, ready to raise."""
    rule, advice = "of operations that integer programs know", "docs/integer.md lists them"
    return invalid("to_integer", "network", rule, f"{kind} of {name!r}", advice)


@dataclass(eq=False)
class Translation:
    """Collects nodes while walking through the graph of a framework.

    Args:
        ties: How quantizers round them.
        nodes: Those that it has so far.
        name: Of the layer at work.
    """

    ties: TieRules
    nodes: list[Node] = field(default_factory=list)
    name: str = ""

    def node(
        self, kind: str, inputs: Sequence[Any], shape: Sequence[int], function: Any = None, **attributes: Any
    ) -> Node:
        """A new node."""
        given = tuple(each if isinstance(each, Node) else np.asarray(each) for each in inputs)
        self.nodes.append(Node(kind, self.name, given, tuple(shape), attributes, function))
        return self.nodes[-1]


def as_node(to: Translation, value: Any) -> Node:
    """A result of the network as a node, even if it is a constant."""
    if isinstance(value, Node):
        return value
    shape = list(np.shape(value))
    return to.node("reshape", [value], shape, sizes=shape)


@dataclass(frozen=True, eq=False)
class Dataflow:
    """A network for one sample.

    Args:
        inputs: Nodes of kind ``"input"``, in the order of the program's arguments.
        nodes: The others, each after those that it reads.
        outputs: (name, node) of each result.
        dtypes: Of the inputs, numpy's names.
    """

    inputs: Sequence[Node]
    nodes: Sequence[Node]
    outputs: Sequence[tuple[str, Any]]
    dtypes: Sequence[str]
