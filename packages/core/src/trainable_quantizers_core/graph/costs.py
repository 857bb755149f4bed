"""The costs of operations: the widths of their weights and inputs, and their multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from trainable_quantizers_core.graph.operation import ModelGraph, Operation, Weight


@dataclass(frozen=True)
class OperationCost:
    """An operation that reads quantized weights, or multiplies.

    Args:
        name: Name of the operation, which rules match.
        weights: Name of its quantized weights, the same for all operations that read them; empty if it has none.
        elements: Number of their elements; 0 if an earlier operation reads the same weights.
        work: Multiply-accumulates; in the summary of a prepared model those of one example.
        inputs: For each tensor that it reads, the operations whose quantized results it consists of; none for a float
            tensor.
        known_as: Other names of the layer and of the weights.
    """

    name: str
    weights: str
    elements: int
    work: int
    inputs: tuple[tuple[str, ...], ...]
    known_as: frozenset[str]


def costs_of(
    graph: ModelGraph,
    weights: Sequence[Collection[str]],
    outputs: Sequence[bool],
    size: Callable[[int, Weight], int],
) -> tuple[OperationCost, ...]:
    """One for each operation that reads quantized weights, or multiplies.

    Args:
        graph: The operations.
        weights: Names of the quantized weights of each.
        outputs: Whether the result of each is quantized.
        size: The number of elements of a weight of the operation at a position.

    Examples:
        >>> graph = ModelGraph((Operation("x", "input", "input"), Operation("view", "other", "view", (0,)),
        ...                     Operation("fc", "linear", "Linear", (1,), "fc", (Weight("weight", 0),), work=12)))
        >>> found, = costs_of(graph, [(), (), ("weight",)], [True, False, False], lambda position, weight: 6)
        >>> found.weights, found.elements, found.work, found.inputs
        ('fc', 6, 12, (('x',),))
    """
    found: list[OperationCost] = []
    seen: set[str] = set()
    for position, operation in enumerate(graph):
        read = [weight for weight in operation.weights if weight.name in weights[position]]
        if not read and not operation.work:
            continue
        names = [weight.shared or f"{operation.name}.{weight.name}" for weight in read]
        elements = sum(size(position, weight) for weight, name in zip(read, names, strict=True) if name not in seen)
        seen.update(names)
        inputs = tuple(_quantized(graph, outputs, source) for source in operation.inputs)
        same = next((each.weights for each in found if read and names[0] in each.known_as), operation.name)
        known_as = frozenset((operation.name, operation.layer, *names))
        found.append(OperationCost(operation.name, same if read else "", elements, operation.work, inputs, known_as))
    return tuple(found)


def _quantized(graph: ModelGraph, outputs: Sequence[bool], position: int) -> tuple[str, ...]:
    """The operations whose quantized results a tensor holds, past operations that move values."""
    operation: Operation = graph[position]
    if outputs[position]:
        return (operation.name,)
    if operation.kind != "other":
        return ()
    return tuple(dict.fromkeys(name for source in operation.inputs for name in _quantized(graph, outputs, source)))
