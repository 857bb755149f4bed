"""The attributes in which a layer keeps its weights, and a context that substitutes other values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainable_quantizers_core.errors import invalid, nearest

from trainable_quantizers_keras.layers.copies import part_at, parts_of


@contextmanager
def substituted(layer: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """``layer`` with other values in some of its slots, inside the context."""
    places = [(*located(layer, path), value) for path, value in values.items()]
    kept = [slots[slot] for slots, slot, _ in places]
    for slots, slot, value in places:
        slots[slot] = value
    try:
        yield
    finally:
        for (slots, slot, _), value in zip(places, kept, strict=True):
            slots[slot] = value


def located(layer: Any, path: str) -> tuple[dict[str, Any], str]:
    """The attributes that hold what is at a path that ``slot_of`` gave, and its name among them."""
    inside, _, slot = path.rpartition(".")
    return vars(part_at(layer, inside)), slot


def slot_of(layer: Any, key: str) -> str:
    """Where in ``vars`` a layer keeps the weight it shows as an attribute; of a layer inside, with the path to it.

    Raises:
        QuantizerError: the layer has no such weight, or computes it from others.

    Examples:
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> layer = keras.layers.Dense(2)
        >>> layer.build((None, 3))
        >>> slot_of(layer, "kernel") in ("kernel", "_kernel")
        True
        >>> slot_of(keras.layers.TimeDistributed(layer), "layer.kernel").startswith("layer.")
        True
    """
    path, _, attribute = key.rpartition(".")
    owner = f"{type(layer).__name__} {layer.name!r}"
    try:
        inner = part_at(layer, path)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        advice = nearest(path, parts_of(layer))
        raise invalid(owner, "weights_quantizers key", "the path of a weight", key, advice) from error
    weights = {id(weight) for weight in inner.weights}
    for slot in (attribute, f"_{attribute}"):
        if id(vars(inner).get(slot)) in weights and getattr(inner, attribute, None) is vars(inner)[slot]:
            return f"{path}.{slot}" if path else slot
    known = [name.lstrip("_") for name, value in vars(inner).items() if id(value) in weights]
    advice = nearest(attribute, known)
    if inner.weights and not known:
        example = next(path for path, part in parts_of(inner).items() if part.weights)
        advice = f"its weights belong to layers inside it: name them like {example}.kernel"
    if hasattr(inner, attribute):
        advice = "it computes this one from others (LoRA?): merge them first"
    raise invalid(owner, "weights_quantizers key", "the name of a weight that the layer holds", key, advice)
