"""A model as the operations of one run, in the same form for every framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

WEIGHTED = ("conv", "depthwise_conv", "conv_transpose", "linear", "matmul", "embedding", "recurrent", "attention")
"""Kinds of operations that may read weights."""

MULTIPLYING = ("conv", "depthwise_conv", "conv_transpose", "linear", "matmul", "recurrent", "attention")
"""Kinds of operations whose work is counted in multiply-accumulates."""

JOINING = ("add", "mul", "concat")
"""Kinds of operations that bring several tensors together, element by element."""

SOURCES = ("input", "constant")
"""Kinds of tensors that no operation makes: what the model is given, and parameters or constants it reads."""


@dataclass(frozen=True)
class Weight:
    """A weight that an operation reads.

    Args:
        name: Name within the layer, or of the argument.
        axis: Its channel axis; None if it has none.
        shared: Name of the parameter that several operations read, where this one is not of a layer alone.
    """

    name: str
    axis: int | None = None
    shared: str = ""


@dataclass(frozen=True)
class Operation:
    """One call of a layer or function.

    Args:
        name: Unique in its graph; rules match it.
        kind: Such as ``conv``, ``add``, ``activation``; ``input`` and ``constant`` for tensors that no operation makes;
            ``other`` for what passes values on as they are; ``function`` for functions that recipes have no word for.
        type: Name of the class or function.
        inputs: Positions of the operations whose results it reads, in the order of its arguments.
        layer: Name of the layer that computes it alone; empty for a function.
        weights: Its weights that can be quantized.
        bias: Name of its bias within the layer; empty if it adds none.
        work: Multiply-accumulates for one batch.
        clips: Whether an activation function is piecewise linear like ReLU, so that hardware applies it to the
            accumulator. All others are looked up in a table by their quantized input.
        scales: Whether the channels of its result scale with its weights and bias, by positive factors, or with its
            input if it has no weights: a layer without more than a ReLU behind its sums, or a ReLU.
        folds: Whether it is a batch norm by constants, or a layer that can take one in.
        identity: Whether its result is its input when the model is deployed, as of dropout.
        floating: Whether its result is a floating tensor.
        within: Classes of the layers and models that it is part of, which rules match as well.
        inside: The part of its computation that stays in float, and why.
        note: Anything else that a user should read about it.
        sizes_only: Whether it reads the sizes of its inputs and none of their values.
        later: Positions of those whose results it reads when the model that it is in is called again.
    """

    name: str
    kind: str
    type: str
    inputs: tuple[int, ...] = ()
    layer: str = ""
    weights: tuple[Weight, ...] = ()
    bias: str = ""
    work: int = 0
    clips: bool = False
    scales: bool = False
    folds: bool = False
    identity: bool = False
    floating: bool = True
    within: tuple[str, ...] = ()
    inside: str = ""
    note: str = ""
    sizes_only: bool = False
    later: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelGraph:
    """Operations in order of execution.

    Args:
        operations: All of one run.
        outputs: Positions of those whose results the model gives.

    Examples:
        >>> graph = ModelGraph((Operation("x", "input", "input"), Operation("conv", "conv", "Conv2d", (0,)),
        ...                     Operation("relu", "activation", "ReLU", (1,), clips=True)), outputs=(2,))
        >>> graph.users(1), graph.follower(1).name
        ((2,), 'relu')
    """

    operations: tuple[Operation, ...]
    outputs: tuple[int, ...] = field(default=())

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def __getitem__(self, position: int) -> Operation:
        return self.operations[position]

    @cached_property
    def _users(self) -> Sequence[Sequence[int]]:
        users: list[list[int]] = [[] for _ in self.operations]
        for position, operation in enumerate(self.operations):
            for source in dict.fromkeys(operation.inputs):
                users[source].append(position)
        return users

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Positions of operations whose results follow from the sizes of inputs alone, as positions in a sequence do.

        Examples:
            >>> shape = Operation("shape", "other", "shape", (0,), sizes_only=True)
            >>> ModelGraph((Operation("x", "input", "input"), shape, Operation("range", "function", "range", (1,)),
            ...             Operation("y", "add", "add", (0, 2)))).fixed
            frozenset({1, 2})
        """
        found: set[int] = set()
        for position, operation in enumerate(self.operations):
            known = bool(operation.inputs) and all(source in found for source in operation.inputs)
            if operation.sizes_only or (known and not operation.weights and not operation.inside):
                found.add(position)
        return frozenset(found)

    def users(self, position: int) -> tuple[int, ...]:
        """Positions of the operations that read a result."""
        return tuple(self._users[position])

    def follower(self, position: int) -> Operation | None:
        """The one reader of a result, past operations that pass values on; None if there are several or none."""
        found = self.follower_at(position)
        return None if found is None else self[found]

    def follower_at(self, position: int) -> int | None:
        """Its position."""
        users = self._users[position]
        if len(users) != 1 or position in self.outputs:
            return None
        (user,) = users
        return self.follower_at(user) if self[user].identity else user

    def folded(self) -> dict[int, int]:
        """Batch norms that can be folded, each with the layer whose result it alone reads.

        Examples:
            >>> conv = Operation("c", "conv", "Conv2d", layer="c", folds=True)
            >>> ModelGraph((conv, Operation("n", "norm", "BatchNorm2d", (0,), layer="n", folds=True))).folded()
            {1: 0}
        """
        layers = [operation.layer for operation in self.operations if operation.layer]
        found = {}
        for position, norm in enumerate(self.operations):
            if norm.kind != "norm" or not norm.folds or len(norm.inputs) != 1 or layers.count(norm.layer) != 1:
                continue
            (before,) = norm.inputs
            layer = self[before]
            alone = self.users(before) == (position,) and before not in self.outputs
            if alone and layer.kind in WEIGHTED and layer.folds and layers.count(layer.layer) == 1:
                found[position] = before
        return found
