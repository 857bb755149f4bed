"""Cross-layer equalization: channels scaled from one layer into the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from trainable_quantizers_core.graph.equalization import ScaledWeight, equalizable, equalize

from trainable_quantizers_keras.graph.kinds import weights_of
from trainable_quantizers_keras.graph.record import record
from trainable_quantizers_keras.layers.copies import build_like, copied


def equalize_layers(model: Any, notes: Mapping[int, str] | None = None) -> tuple[Any, dict[str, str], dict[int, str]]:
    """A copy with equalized weights in layers that follow each other.

    Args:
        model: The model; stays as it is.
        notes: About its layers, by their identity.

    Returns:
        The copy; paths of each equalized layer and of the next; the notes, about the layers of the copy.

    Exact in float: see ``equalize``.
    """
    recorded = record(model)
    pairs = equalizable(recorded.graph)
    layers = {at: recorded.calls[at].layer for pair in pairs for at in pair}
    weights = {at: _scaled(layer) for at, layer in layers.items()}
    equalize(weights, pairs)
    scaled = {id(layer): _copy(layer, weights[at]) for at, layer in layers.items()}
    copies: dict[int, Any] = {}
    made = copied(model, lambda layer, call: scaled.get(id(layer), layer), copies=copies)
    about = {id(copies[identity]): note for identity, note in (notes or {}).items() if identity in copies}
    return made, {recorded.graph[one].layer: recorded.graph[other].layer for one, other in pairs}, about


def _kernel(layer: Any) -> tuple[str, np.ndarray, int]:
    """Its name; itself, of shape (..., inputs of a group, outputs); and its groups."""
    ((name, _),) = weights_of(layer).items()
    kernel = np.asarray(getattr(layer, name))
    if type(layer).__name__.startswith("Depthwise"):
        return name, kernel.reshape(*kernel.shape[:-2], 1, -1), kernel.shape[-2]
    return name, kernel, getattr(layer, "groups", 1)


def _scaled(layer: Any) -> ScaledWeight:
    _, kernel, groups = _kernel(layer)
    return ScaledWeight(np.abs(kernel.reshape(-1, *kernel.shape[-2:]).astype(np.float64)).max(0), groups)


def _copy(layer: Any, scaled: ScaledWeight) -> Any:
    made = type(layer).from_config(layer.get_config())
    build_like(layer, made)
    name, kernel, _ = _kernel(layer)
    made.set_weights(layer.get_weights())
    slot = getattr(made, name)
    slot.assign((kernel * scaled.factors.astype(kernel.dtype)).reshape(slot.shape))
    if made.bias is not None:
        made.bias.assign(np.asarray(layer.bias) * scaled.bias_factors.astype(kernel.dtype))
    return made
