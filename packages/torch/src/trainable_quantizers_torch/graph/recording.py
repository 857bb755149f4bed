"""A recorded run: the calls of modules and functions, and the tensors that these made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from trainable_quantizers_core.graph.operation import Weight

from trainable_quantizers_torch.graph.weights import Path


@dataclass(eq=False)
class Node:
    """A tensor of a run: the call that made it, and from which tensors.

    Args:
        kind: As of an operation of the core.
        type: Name of the class or function.
        name: Where it is computed, and by what; not yet unique.
        function: The function whose call made it; None for what no function made.
        arguments: Nodes of the tensors it was made from, by where they stand among the arguments.
        read: Those of them that the operation computes with: not weights, biases, indices.
        weights: Weights among the arguments, by where they stand, with their values.
        layer: Path of the module that computes it alone.
        work: Multiply-accumulates.
        constant: Whether it depends on parameters and constants alone.
        random: Whether it depends on random numbers alone.
        loss: Whether it depends on a loss.
        parameter: Full name, if it is a parameter itself.
        size: Number of elements.
        ndim: Number of axes.
        floating: Whether it holds floating numbers.
        items: Which items of a tuple are its result; None for a tensor.
        norm: Path of the module of a batch norm by constants.
        takes_bias: Whether a layer's bias stands where its function takes one, or None does.
        bias: Name of that bias; empty where there is None.
        inside: The part of its computation that stays in float, and why.
        in_place: Whether it changes its first argument, from which the forward reads the result.
    """

    kind: str
    type: str
    name: str
    function: Callable[..., Any] | None = None
    arguments: dict[Path, Node] = field(default_factory=dict)
    read: tuple[Path, ...] = ()
    weights: dict[Path, tuple[Weight, torch.Tensor, Node]] = field(default_factory=dict)
    layer: str = ""
    work: int = 0
    constant: bool = False
    random: bool = False
    loss: bool = False
    parameter: str = ""
    size: int = 0
    ndim: int = 0
    floating: bool = True
    items: tuple[int, ...] | None = None
    norm: str = ""
    takes_bias: bool = False
    bias: str = ""
    inside: str = ""
    in_place: bool = False


@dataclass(eq=False)
class Invocation:
    """One call of a module.

    Args:
        path: Name of the module.
        parent: The call that it was made in; None for the model's own.
        whole: Its node, if it counts as one operation.
    """

    path: str
    parent: Invocation | None
    whole: Node | None = None


@dataclass(eq=False)
class MethodCall:
    """A method of a module, called while its forward ran; of several such calls the first.

    Args:
        invocation: The call of the module.
        name: Of the method.
        calls: How many functions had been called before.
        invocations: How many modules had been called before.
        nodes: The nodes of the functions that it called.
    """

    invocation: Invocation
    name: str
    calls: int
    invocations: int
    nodes: list[Node] = field(default_factory=list)


@dataclass
class Recording:
    """Everything that one run did, in order.

    Args:
        calls: Functions, the calls of modules that they were called in, and what they made.
        nodes: The results of functions or of modules that count as one operation; inputs and constants first read.
        invocations: The calls of modules.
        outputs: The outputs of the model.
        methods: The public methods that forwards called, by call of the module and name.
    """

    calls: list[tuple[Callable[..., Any], Invocation, Node | None]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    invocations: list[Invocation] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    methods: dict[tuple[Invocation, str], MethodCall] = field(default_factory=dict)
