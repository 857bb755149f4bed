"""A model as the layers that recipes speak of, and where their quantizers go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from trainable_quantizers_core import Layer, Recipe
from trainable_quantizers_core.graph.placement import changes_values, is_left_to

from trainable_quantizers_keras.graph.calls import OUTPUT, Call, calls_of, is_graph
from trainable_quantizers_keras.graph.copies import part_at, parts_of
from trainable_quantizers_keras.graph.kinds import has_weight, keeps_values, kind_of, weights_of, word_of
from trainable_quantizers_keras.keras_version import keras

_PASSED = ("Dropout", "Identity", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "ActivityRegularization")


Place = tuple[int, int, int]
"""Identity of the graph and of the layer, and how many calls of the layer the graph makes before."""


@dataclass
class Found:
    """A call of a layer, with what quantizing it takes.

    Args:
        layer: As the recipe sees it.
        source: The layer of the model.
        place: What tells its output from others.
        weights: Paths of its weights that are quantized, and the axes of their channels.
        why: Why something of it stays in float.
        masked: Whether its output carries a mask.
    """

    layer: Layer
    source: Any
    place: Place
    weights: dict[str, int]
    why: str = ""
    masked: bool = False


def discover(model: Any, recipe: Recipe) -> list[Found]:
    """The layers in order of execution; those of a subclassed model in order of definition."""
    return list(_in_graph(model, recipe, {}, "") if is_graph(model) else _in_parts(model, recipe, {}, ""))


def _in_graph(model: Any, recipe: Recipe, first: dict[int, str], prefix: str) -> Iterator[Found]:
    for call in calls_of(model):
        name = f"{prefix}{call.layer.name}" + (f"_{call.index}" if call.index else "")
        if prefix and isinstance(call.layer, keras.layers.InputLayer):
            continue  # what goes into an inner model is quantized before
        if _is_model(call.layer):
            if id(call.layer) not in first:
                first[id(call.layer)] = name
                inside = _in_graph if is_graph(call.layer) else _in_parts
                yield from inside(call.layer, recipe, first, f"{name}/")
            continue
        found = _found(name, call.layer, call.place, recipe, first)
        found.masked = call.masked
        follower = _only_user(call)
        if follower is not None and is_left_to(kind_of(call.layer), kind_of(follower)):
            found.why = _joined(found.why, f"output: left to {follower.name}")
            found.layer = replace(found.layer, activation=False)
        yield found


def _in_parts(model: Any, recipe: Recipe, first: dict[int, str], prefix: str) -> Iterator[Found]:
    for path, part in parts_of(model).items():
        name = f"{prefix}{path}"
        if id(part) in first:
            continue
        if _is_model(part):
            first[id(part)] = name
            yield from (_in_graph if is_graph(part) else _in_parts)(part, recipe, first, f"{name}/")
        else:
            yield _found(name, part, place_of_part(part), recipe, first)


def place_of_part(layer: Any) -> Place:
    """That of a layer outside graphs, however often it is called."""
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
        if _is_model(layer):
            yield from _executions(layer)
        else:
            yield layer, place


def _is_model(layer: Any) -> bool:
    return isinstance(layer, keras.Model)


def _only_user(call: Call) -> Any:
    """The layer that the output goes into, if that is one thing; past what passes values on as they are."""
    if len(call.users) != 1 or call.users[0] is OUTPUT:
        return None
    (user,) = call.users
    return _only_user(user) if type(user.layer).__name__ in _PASSED else user.layer


def _found(name: str, layer: Any, place: Place, recipe: Recipe, first: dict[int, str]) -> Found:
    kind, word = ("input" if isinstance(layer, keras.layers.InputLayer) else kind_of(layer)), word_of(layer)
    parts = parts_of(layer)
    own = kind == "other" and not keeps_values(layer) and bool(getattr(layer, "weights", ()))
    weights, why = weights_of(layer), ""
    if parts:
        weights = dict(_weights_inside(layer, ""))
        why = "what it computes inside stays in float" if weights else ""
    elif own:
        named = any(rule.type and fnmatchcase(word.lower(), rule.type.lower()) for rule in recipe.rules)
        weights = {"kernel": -1} if named and has_weight(layer, "kernel") else {}
        if not weights:
            why = f"a layer of your own: a rule with type = {word!r} quantizes its weight, if that is called kernel"
    elif kind == "other" and not keeps_values(layer):
        why = "a layer that recipes have no word for"
    if id(layer) in first:
        weights, why = {}, f"the same layer as {first[id(layer)]}"
    first.setdefault(id(layer), name)
    activation = changes_values(kind, word) or own
    return Found(Layer(name, (kind, word), tuple(weights), activation), layer, place, weights, why)


def _weights_inside(layer: Any, path: str) -> Iterator[tuple[str, int]]:
    """Of the layers inside a layer, at any depth."""
    for name, part in parts_of(layer).items():
        inside = f"{path}{name}"
        for weight, axis in weights_of(part).items():
            yield f"{inside}.{weight}", axis
        yield from _weights_inside(part_at(layer, name), f"{inside}.")


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
