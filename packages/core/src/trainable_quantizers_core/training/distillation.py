"""Distillation from the float model; shared by both frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.graph.summary import Summary

OWNER = "Distillation"


@dataclass(frozen=True)
class DistillationTerms:
    """How outputs and layers are compared.

    Args:
        temperature: Of the softmax over outputs; None compares the outputs themselves.
        weight: Of the layers beside the outputs.
        class_axis: The axis of the outputs that counts classes.

    Raises:
        QuantizerError: no positive temperature, a negative weight, or an axis that is no integer.
    """

    temperature: float | None
    weight: float
    class_axis: int

    def __post_init__(self) -> None:
        if self.temperature is not None and not (_is_number(self.temperature) and 0 < self.temperature < float("inf")):
            advice = "1 to 4 are usual for logits; None takes the squared error of outputs that are no logits"
            raise invalid(OWNER, "temperature", "a positive number or None", self.temperature, advice)
        if not (_is_number(self.weight) and 0 <= self.weight < float("inf")):
            raise invalid(OWNER, "weight", "a number of at least 0", self.weight, "1 weighs layers as much as outputs")
        if type(self.class_axis) is not int:
            raise invalid(OWNER, "class_axis", "an integer", self.class_axis, "-1 is the last axis")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def matched_layers(
    layers: Any, teacher: Iterable[str], student: Iterable[str], summary: Summary | None
) -> dict[str, str]:
    """The layer of the student for each layer of the teacher; for a folded norm, the layer that it folded into.

    Args:
        layers: Names that the user gave.
        teacher: Names of all layers of the teacher.
        student: Those of the student.
        summary: The summary of ``prepare`` for the student, if there is one.

    Raises:
        QuantizerError: one of them lacks the layer, or its output differs because a norm folded into it.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise invalid(OWNER, "layers", "a sequence of names", layers, "write ('conv',) for one layer")
    theirs, ours = list(teacher), set(student)
    folded = summary.folded if summary else {}
    found: dict[str, str] = {}
    for name in layers:
        if name not in theirs:
            raise invalid(OWNER, "layers", "names of layers of the teacher", name, nearest(name, theirs))
        norm = next((norm for norm, layer in folded.items() if layer == name), None)
        if norm is not None:
            rule, advice = "names of layers with the same output in both models", f"name {norm!r}, which folded into it"
            raise invalid(OWNER, "layers", rule, name, advice)
        found[name] = name if name in ours else str(folded.get(name, name))
        if found[name] not in ours:
            rule = "names of layers that the student has as well"
            raise invalid(OWNER, "layers", rule, name, nearest(name, [each for each in theirs if each in ours]))
    return found


def check_shapes(what: str, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> None:
    """Check that two models give tensors of the same names and shapes.

    Args:
        what: A layer or ``outputs``, for the message.
        student: Shapes of the student's tensors, by name; None is a size that depends on the batch.
        teacher: Those of the teacher.

    Raises:
        QuantizerError: the names or the shapes differ, or there is no tensor.
    """
    if not student or list(student) != list(teacher) or not all(map(_fit, student.values(), teacher.values())):
        rule = f"those of the teacher, {_in_words(teacher)}"
        advice = "pass the float model that the student was prepared from, and leave out layers that differ"
        raise invalid(OWNER, f"{what} of the student", rule, _in_words(student), advice)


def _fit(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return len(one) == len(other) and all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))


def _in_words(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} of shape {tuple(shape)}" for name, shape in shapes.items()) or "no floating tensor"
