"""Builds the core's graph from a recorded run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from trainable_quantizers_core.calibration.observation import UNREACHED
from trainable_quantizers_core.graph.operation import JOINING, SOURCES, ModelGraph, Operation

from trainable_quantizers_torch.graph import kinds
from trainable_quantizers_torch.graph.modules import layers_alone
from trainable_quantizers_torch.graph.recording import Node, Recording
from trainable_quantizers_torch.graph.weights import Path


@dataclass(frozen=True)
class RecordedGraph:
    """A graph and the nodes that its operations stand for.

    Args:
        graph: The graph for the core.
        nodes: By position of the operation.
        positions: The other way.
    """

    graph: ModelGraph
    nodes: tuple[Node, ...]
    positions: dict[Node, int]

    def sources(self, position: int, path: Path) -> list[int]:
        """The inputs and constants that an argument consists of; empty if an operation made any of its values."""
        found: list[int] = []
        waiting = [self.positions.get(self.nodes[position].arguments[path])]
        while waiting:
            at = waiting.pop()
            if at is None:
                return []
            operation = self.graph[at]
            if operation.kind in SOURCES:
                found.append(at)
            elif operation.kind == "other" and operation.inputs:
                waiting += operation.inputs
            else:
                return []
        return found


def build(recording: Recording, model: nn.Module) -> RecordedGraph:
    """The graph of the part of a recording that counts: what the outputs depend on, without random numbers."""
    wanted = _reached(recording)
    nodes = [node for node in recording.nodes if node in wanted]
    names = _unique_names(nodes)
    positions = {node: at for at, node in enumerate(nodes)}
    shared = _shared_parameters(model) | _read_elsewhere(recording)
    operations = tuple(_operation(node, names[node], positions, shared) for node in nodes)
    outputs = tuple(positions[node] for node in recording.outputs if node in positions)
    unseen = _unreached(model, {node.layer for node in nodes} | {each.path for each in recording.invocations})
    operations += tuple(unseen)
    nodes += [Node(each.kind, each.type, each.name, layer=each.layer, weights=_held(model, each)) for each in unseen]
    return RecordedGraph(ModelGraph(operations, outputs), tuple(nodes), positions)


def _unique_names(nodes: list[Node]) -> dict[Node, str]:
    """A name for each node: those that come later get a number."""
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    found = {}
    for node in nodes:
        name = node.name
        while name in taken:
            counts[node.name] += 1
            name = f"{node.name}_{counts[node.name]}"
        taken.add(name)
        found[node] = name
    return found


def _reached(recording: Recording) -> set[Node]:
    """The nodes that count: those that the outputs depend on, and constants that an operation joins with others."""
    waiting = [node for node in recording.outputs if not node.constant and not node.random]
    if not waiting:
        waiting = [node for node in recording.nodes if not node.constant and not node.random]
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if not node.constant:
                waiting += _read(node)
    return found


def _read(node: Node) -> list[Node]:
    """The nodes that a node computes with."""
    read = [node.arguments[path] for path in node.read]
    joins = node.kind in (*JOINING, "matmul")
    return [each for each in read if not each.random and (joins or not each.constant)]


def _operation(node: Node, name: str, positions: dict[Node, int], shared: frozenset[str]) -> Operation:
    if node.kind in SOURCES or node.constant:
        kind = "input" if node.kind == "input" else "constant"
        return Operation(name, kind, node.type, floating=node.floating)
    function = node.function
    weights = tuple(weight for weight, _, _ in node.weights.values())
    takes_norm = (
        node.kind in ("conv", "depthwise_conv", "conv_transpose", "linear")
        and bool(node.layer)
        and node.takes_bias
        and len(weights) == 1
        and shared.isdisjoint((weights[0].shared, f"{node.layer}.bias"))
        and (node.kind != "linear" or node.ndim == 2)
    )
    return Operation(
        name=name,
        kind=node.kind,
        type=node.type,
        inputs=tuple(positions[each] for each in _read(node)),
        layer=node.norm or node.layer,
        weights=weights,
        bias=node.bias,
        work=node.work,
        clips=function is not None and node.kind == "activation" and kinds.clips(function),
        scales=takes_norm or (function is not None and node.kind == "activation" and kinds.scales(function)),
        folds=bool(node.norm) or takes_norm,
        identity=node.kind == "other" and function is not None and kinds.is_identity(function),
        floating=node.floating,
        inside=node.inside,
    )


def _unreached(model: nn.Module, reached: set[str]) -> list[Operation]:
    """Layers with weights that the run did not reach."""
    known = [operation for operation in layers_alone(model) if operation.layer not in reached]
    return [replace(operation, note=UNREACHED, floating=False) for operation in known]


def _held(model: nn.Module, operation: Operation) -> Any:
    layer = model.get_submodule(operation.layer)
    return {("module", each.name): (each, getattr(layer, each.name), None) for each in operation.weights}


def _shared_parameters(model: nn.Module) -> frozenset[str]:
    """Parameters that occur in a model more than once."""
    seen: set[int] = set()
    named = [(name, id(parameter)) for name, parameter in model.named_parameters(remove_duplicate=False)]
    twice = {each for _, each in named if each in seen or seen.add(each)}  # type: ignore[func-returns-value]
    return frozenset(name for name, each in named if each in twice)


def _read_elsewhere(recording: Recording) -> frozenset[str]:
    """Parameters of layers that the forward itself or another layer reads."""
    read = {(each.parameter, node.layer) for node in recording.nodes for each in node.arguments.values()}
    return frozenset(name for name, layer in read if name.rpartition(".")[0] != layer)
