"""The share of a model's work that is done on quantized numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainable_quantizers_core.graph.operation import MULTIPLYING, SOURCES, ModelGraph
from trainable_quantizers_core.graph.placement import Place


@dataclass(frozen=True)
class Coverage:
    """How much of a model computes on quantized numbers, on the batch that it was recorded with.

    Args:
        work: Multiply-accumulates of the model.
        quantized_work: Those whose weights and inputs both lie on grids.
        sums: Sums and differences of two or more tensors.
        quantized_sums: Those whose operands all lie on grids.
        float_operations: Names of operations that read a float tensor or compute in float inside.

    Examples:
        >>> print(Coverage(200, 100, 3, 3, ("head",)))
        50.0 % of the multiply-accumulates and 3 of 3 sums are quantized; in float: head.
    """

    work: int = 0
    quantized_work: int = 0
    sums: int = 0
    quantized_sums: int = 0
    float_operations: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Quantized multiply-accumulates of all; 1 where there are none."""
        return self.quantized_work / self.work if self.work else 1.0

    @property
    def figures(self) -> dict[str, int]:
        """Its numbers by name, for reports."""
        return {name: getattr(self, name) for name in ("work", "quantized_work", "sums", "quantized_sums")}

    def __str__(self) -> str:
        share = int(1000 * self.share) / 10  # never 100 where something is missing
        left = f"; in float: {_listed(self.float_operations)}" if self.float_operations else ""
        sums = f" and {self.quantized_sums} of {self.sums} sums" if self.sums else ""
        return f"{share} % of the multiply-accumulates{sums} are quantized{left}."


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def coverage(
    graph: ModelGraph,
    places: Sequence[Place],
    weights: Mapping[int, bool],
    outputs: Mapping[int, bool],
    exempt: frozenset[int] = frozenset(),
) -> Coverage:
    """The coverage of a graph.

    Args:
        graph: The operations.
        places: Where quantizers were to stand.
        weights: Whether all weights of an operation are quantized.
        outputs: Whether the result of an operation is quantized.
        exempt: Operations whose results no grid can hold, such as masks of infinities.
    """
    on_grid = _on_grid(graph, places, weights, outputs, exempt)
    work = quantized_work = sums = quantized_sums = 0
    left = []
    for position, operation in enumerate(graph):
        if operation.kind in (*SOURCES, "other", "embedding") or position in graph.fixed:
            continue
        clean = bool(operation.inputs) and all(on_grid[source] for source in operation.inputs)
        covered = clean and not operation.inside
        if operation.kind in MULTIPLYING:
            covered = covered and (weights.get(position, False) if operation.weights else len(operation.inputs) > 1)
            work += operation.work
            quantized_work += operation.work if covered else 0
        if operation.kind == "add" and len(operation.inputs) > 1:
            sums += 1
            quantized_sums += clean
        if not covered and operation.floating:
            left.append(operation.name)
    return Coverage(work, quantized_work, sums, quantized_sums, tuple(left))


def _on_grid(
    graph: ModelGraph,
    places: Sequence[Place],
    weights: Mapping[int, bool],
    outputs: Mapping[int, bool],
    exempt: frozenset[int],
) -> list[bool]:
    """Whether the operations that follow read each result on a grid, or before the function it is left to."""
    found: list[bool] = []
    for position, operation in enumerate(graph):
        inputs = all(found[source] for source in operation.inputs)
        if outputs.get(position) or not operation.floating or position in exempt:
            on_grid = True
        elif places[position].left_to:
            on_grid = inputs
        elif operation.kind == "embedding":
            on_grid = weights.get(position, False)
        elif operation.kind == "other" or operation.clips:
            on_grid = bool(operation.inputs) and inputs
        else:
            on_grid = False
        found.append(on_grid)
    return found
