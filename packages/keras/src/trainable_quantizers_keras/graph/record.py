"""Records a model as operations of the core's graph, one for each call of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainable_quantizers_core.graph.operation import WEIGHTED, ModelGraph, Operation, Weight

from trainable_quantizers_keras.graph.describe import INSIDE, is_floating, operation_of, work_of_function
from trainable_quantizers_keras.graph.kinds import weight_axis, word_of
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import Call, calls_of, ends_of, input_layers, is_graph
from trainable_quantizers_keras.layers.copies import parts_of
from trainable_quantizers_keras.layers.weight import KerasWeight

_Results = Sequence[tuple[int, ...]]  # of each result of a call, the operations that give it
Place = tuple[int, int, int]
"""Identity of the graph and of the layer, and how many calls of the layer the graph makes before."""

_UNSEEN = "a layer of a subclassed model: its inputs, and sums and functions of the call, stay in float"


@dataclass(frozen=True)
class RecordedCall:
    """A call of a layer, as an operation stands for it.

    Args:
        layer: The layer of the model.
        place: A key of its result.
        masked: Whether its result carries a mask.
        reads: The layers of weights that it reads as arguments, by the names of the weights.
        result: The index among the results of the call.
    """

    layer: Any
    place: Place
    masked: bool = False
    reads: Mapping[str, Any] = field(default_factory=dict)
    result: int = 0

    def holder_of(self, weight: str) -> tuple[Any, str]:
        """The layer that holds a weight, and the name of the weight there."""
        return (self.reads[weight], "weight") if weight in self.reads else (self.layer, weight)


@dataclass
class RecordedModel:
    """A graph and the calls that its operations stand for, in the same order."""

    operations: list[Operation] = field(default_factory=list)
    calls: list[RecordedCall] = field(default_factory=list)
    outputs: tuple[int, ...] = ()

    @property
    def graph(self) -> ModelGraph:
        """The graph for the core."""
        return ModelGraph(tuple(self.operations), self.outputs)

    def add(self, operation: Operation, call: RecordedCall) -> tuple[int, ...]:
        """Add an operation, and return its position."""
        self.operations.append(operation)
        self.calls.append(call)
        return (len(self.operations) - 1,)


def record(model: Any, notes: Mapping[int, str] | None = None) -> RecordedModel:
    """The calls in order of execution; of a subclassed model, its layers in order of definition.

    Args:
        model: The model.
        notes: Further notes for the user about layers, by their identity.
    """
    recorder = _Recorder(notes or {})
    recorder.found.outputs = _joined(recorder.graph(model, "")) if is_graph(model) else recorder.parts(model, "")
    return recorder.found


class _Recorder:
    def __init__(self, notes: Mapping[int, str]) -> None:
        self.found = RecordedModel()
        self.notes = notes
        self.first: dict[int, str] = {}  # names of layers and models by identity
        self.results: dict[int, _Results] = {}  # of inner models
        self.readers: dict[tuple[int, int], list[int]] = {}  # operations that read an input of an inner model
        self.within: tuple[str, ...] = ()  # names of the classes of the models around a call

    def graph(self, model: Any, prefix: str, given: _Results | None = None) -> _Results:
        """Record a Sequential or functional model, whose inputs are results of given operations."""
        results: dict[int, _Results] = {}
        begin = dict(zip(map(id, input_layers(model)), given or (), strict=False))
        calls = calls_of(model)
        ends = ends_of(model, calls)
        used = {(id(before), at) for before, at in [*ends, *(each for call in calls for each in call.arguments)]}
        for call in calls:
            name = f"{prefix}{call.layer.name}" + (f"_{call.index}" if call.index else "")
            inputs = [results[id(before)][at] for before, at in call.arguments]
            if given is not None and isinstance(call.layer, keras.layers.InputLayer):
                results[id(call)] = [begin.get(id(call.layer), ())]
            elif isinstance(call.layer, keras.Model):
                results[id(call)] = self._inner(call, name, inputs)
            else:
                read = [at for at in range(len(call.results)) if (id(call), at) in used]
                results[id(call)] = self._call(call, name, _joined(inputs), read or [0])
            self._note_readers(model, call, results[id(call)])
        return [results[id(call)][at] for call, at in ends]

    def _note_readers(self, model: Any, call: Call, results: _Results) -> None:
        """Record which operations read the inputs of a model, including those of models inside it."""
        sources = {id(layer): at for at, layer in enumerate(input_layers(model))}
        for at, (before, _) in enumerate(call.arguments):
            if id(before.layer) in sources:
                inside = isinstance(call.layer, keras.Model)
                found = self.readers.get((id(call.layer), at), []) if inside else _joined(results)
                self.readers.setdefault((id(model), sources[id(before.layer)]), []).extend(found)

    def parts(self, model: Any, prefix: str) -> tuple[int, ...]:
        """Record the layers of a subclassed model, whose calls are not visible."""
        outputs: tuple[int, ...] = ()
        for path, part in parts_of(model).items():
            name = f"{prefix}{path}"
            if id(part) in self.first:
                continue
            if isinstance(part, keras.Model):
                self.first[id(part)] = name
                inside = f"{name}/"
                outputs += _joined(self.graph(part, inside)) if is_graph(part) else self.parts(part, inside)
            else:
                note = "; ".join(filter(None, (_UNSEEN, self.notes.get(id(part)))))
                operation = operation_of(name, part, (), None, self.first.get(id(part), ""), note)
                self.first.setdefault(id(part), name)
                outputs += self.found.add(operation, RecordedCall(part, place_of_part(part)))
        return outputs

    def _inner(self, call: Call, name: str, inputs: _Results) -> _Results:
        """Record a model that a model calls, at its first call."""
        model = call.layer
        if id(model) in self.first:
            for index, positions in enumerate(inputs):
                for reader in self.readers.get((id(model), index), ()):
                    operation = self.found.operations[reader]
                    self.found.operations[reader] = replace(operation, later=(*operation.later, *positions))
            again = Operation(name, "function", "Model", _joined(inputs), floating=False)
            self.found.add(again, RecordedCall(model, call.place))
        elif is_graph(model):
            self.first[id(model)] = name
            self.within += (type(model).__qualname__.rpartition(".")[2],)
            self.results[id(model)] = self.graph(model, f"{name}/", inputs)
            self.within = self.within[:-1]
        else:
            self.first[id(model)] = name
            reads = Operation(name, "function", type(model).__name__, _joined(inputs), floating=False)
            self.found.add(reads, RecordedCall(model, call.place))
            self.parts(model, f"{name}/")
            result = Operation(f"{name}.result", "function", type(model).__name__, inside=INSIDE, floating=False)
            at = self.found.add(result, RecordedCall(model, call.place))
            self.results[id(model)] = [at] * len(call.results)
        return self.results[id(model)]

    def _call(self, call: Call, name: str, inputs: tuple[int, ...], read: Sequence[int]) -> _Results:
        """Record a call by the first of its results that is read; the others are operations that read the same."""
        note = self.notes.get(id(call.layer), "")
        operation = operation_of(name, call.layer, inputs, call, self.first.get(id(call.layer), ""), note, read[0])
        self.first.setdefault(id(call.layer), name)
        operation, reads = self._with_weights(replace(operation, within=self.within), call)
        results: list[tuple[int, ...]] = [()] * len(call.results)
        for at in read:
            found = operation
            if at != read[0]:
                floating = is_floating(call.results[at].dtype)
                named = f"{name}.{at}"
                found = replace(operation, name=named, floating=floating, weights=(), work=0, inside="", note="")
            results[at] = self.found.add(found, RecordedCall(call.layer, call.place, call.masked, reads, at))
        return results

    def _with_weights(self, operation: Operation, call: Call) -> tuple[Operation, dict[str, Any]]:
        """A function that multiplies, with the weights among its arguments; the layers that give these."""
        given = {at: self.found.calls[at].layer for at in operation.inputs}
        given = {at: layer for at, layer in given.items() if isinstance(layer, KerasWeight)}
        looks_up = operation.kind == "other" and word_of(call.layer).lower() in ("take", "gather", "embeddinglookup")
        kind = "embedding" if looks_up else operation.kind
        if not given or (operation.layer and operation.weights) or kind not in WEIGHTED:
            return operation, {}
        weights = tuple(
            Weight(layer.name, weight_axis(call, layer, kind), self.first[id(layer)]) for layer in given.values()
        )
        read = replace(
            operation,
            kind=kind,
            inputs=tuple(at for at in operation.inputs if at not in given),
            weights=weights,
            work=operation.work or work_of_function(call, kind, [layer.shape for layer in given.values()]),
        )
        return read, {layer.name: layer for layer in given.values()}


def _joined(inputs: _Results) -> tuple[int, ...]:
    return tuple(dict.fromkeys(position for each in inputs for position in each))


def place_of_part(layer: Any) -> Place:
    """The place of a layer outside graphs, the same for all its calls."""
    return 0, id(layer), 0


def executions(model: Any) -> dict[int, list[Place]]:
    """By identity of the layer, the places of its calls in one run of the model, in their order."""
    found: dict[int, list[Place]] = {}
    for layer, place in _executions(model):
        found.setdefault(id(layer), []).append(place)
    return found


def _executions(model: Any) -> Iterator[tuple[Any, Place]]:
    if is_graph(model):
        called = [(call.layer, call.place) for call in calls_of(model)]
    else:
        called = [(part, place_of_part(part)) for part in parts_of(model).values()]
    for layer, place in called:
        if isinstance(layer, keras.Model):
            yield from _executions(layer)
        else:
            yield layer, place
