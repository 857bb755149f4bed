"""The placement of quantizers: each tensor is quantized once, where an accelerator writes it."""

from __future__ import annotations

from dataclasses import dataclass

from trainable_quantizers_core.graph.operation import JOINING, MULTIPLYING, SOURCES, WEIGHTED, ModelGraph, Operation

_NEW_VALUES = (*WEIGHTED, *JOINING, "activation", "norm", "pool", "function")
_READ_ON_GRID = (*MULTIPLYING, *JOINING, "activation", "norm", "pool", "function")
_BEFORE_CLIP = (*MULTIPLYING, *JOINING, "norm", "pool", "function")


@dataclass(frozen=True)
class Place:
    """Whether the result of an operation is quantized.

    Args:
        quantized: Whether a quantizer stands behind it.
        left_to: Name of the operation behind which it stands instead.
    """

    quantized: bool
    left_to: str = ""


def place(graph: ModelGraph) -> tuple[Place, ...]:
    """One for each operation.

    - What makes new values is quantized behind it; what only moves them is not.
    - A convolution, sum or norm that goes into a function like ReLU alone is quantized behind that: hardware clips the
      accumulator. So is a convolution that goes alone into a batch norm that folds into it.
    - Inputs and constants are quantized where an operation reads them that computes with them.
    - What follows from sizes alone is quantized where an operation on data reads it.
    - All other functions of one value read a quantized one, for hardware looks them up in a table.

    Examples:
        >>> graph = ModelGraph((Operation("x", "input", "input"), Operation("c", "conv", "Conv2d", (0,)),
        ...                     Operation("relu", "activation", "ReLU", (1,), clips=True)), outputs=(2,))
        >>> [place.left_to or place.quantized for place in place(graph)]
        [True, 'relu', True]
    """
    folded = graph.folded()
    return tuple(_place(graph, position, folded) for position in range(len(graph)))


def _place(graph: ModelGraph, position: int, folded: dict[int, int]) -> Place:
    operation = graph[position]
    if operation.kind in SOURCES:
        return Place(operation.floating and _is_computed_with(graph, position, set()))
    if operation.kind not in _NEW_VALUES or operation.kind == "embedding" or not operation.floating:
        return Place(False)
    if position in graph.fixed and not _meets_data(graph, position):
        return Place(False)
    follower = graph.follower(position)
    if follower is not None and _is_left_to(operation, follower, graph, position, folded):
        return Place(False, follower.name)
    return Place(True)


def _meets_data(graph: ModelGraph, position: int) -> bool:
    """Whether an operation on data reads what follows from sizes alone, past what moves such values."""
    return any(
        user not in graph.fixed or (graph[user].kind == "other" and _meets_data(graph, user))
        for user in graph.users(position)
    )


def _is_left_to(
    operation: Operation, follower: Operation, graph: ModelGraph, position: int, folded: dict[int, int]
) -> bool:
    if follower.kind == "norm":
        return any(graph[norm] is follower and before == position for norm, before in folded.items())
    return follower.kind == "activation" and follower.clips and operation.kind in _BEFORE_CLIP


def _is_computed_with(graph: ModelGraph, position: int, seen: set[int]) -> bool:
    """Whether an operation computes with a tensor of no operation, past what moves values of such tensors alone."""
    for user in graph.users(position):
        if user not in seen:
            seen.add(user)
            if graph[user].kind in _READ_ON_GRID:
                return True
            if graph[user].kind == "other" and _is_moved(graph, user) and _is_computed_with(graph, user, seen):
                return True
    return False


def _is_moved(graph: ModelGraph, position: int) -> bool:
    """Whether an operation that moves values has them of inputs and constants alone."""
    operation = graph[position]
    if operation.kind in SOURCES or position in graph.fixed:
        return True
    moves = operation.kind == "other" and bool(operation.inputs)
    return moves and all(_is_moved(graph, source) for source in operation.inputs)
