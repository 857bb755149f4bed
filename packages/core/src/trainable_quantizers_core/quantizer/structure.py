"""The structure of quantizers (method, bits, sign, axis) as text that is saved with their variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SIGN = "signed"
"""The sign of an activation comes from calibration, as the threshold does; the recipe sets everything else."""


def structure_of(quantizers: Mapping[Any, Any]) -> str:
    """JSON of method, bits, sign, channel axis and domain of the shipped quantizers among these, by key.

    Examples:
        >>> structure_of({"kernel": object()})
        '{}'
    """
    found = {str(key): getattr(quantizer, "structure", {}) for key, quantizer in quantizers.items()}
    return json.dumps({key: structure for key, structure in found.items() if structure}, sort_keys=True)


def structural_differences(
    owner: str, quantizers: Mapping[Any, Any], saved: str, but: tuple[str, ...] = ()
) -> list[str]:
    """Messages for the quantizers whose structure differs from a saved state; keys on one side only are ignored.

    Args:
        owner: Name of the layer that holds them, for messages.
        quantizers: Those that are to take in the state.
        saved: The result of ``structure_of`` when the state was saved.
        but: Names that may differ.

    Examples:
        >>> class Signed:
        ...     structure = {"num_bits": 8, "signed": True}
        >>> (message,) = structural_differences("relu", {"out": Signed()}, '{"out": {"num_bits": 4, "signed": true}}')
        >>> message.partition(";")[0]
        "relu: quantizer of 'out' must be as in the saved state (num_bits 4), got num_bits 8"
    """
    found = []
    for key, theirs, ours in _pairs(quantizers, saved):
        names = [name for name in ours if name not in but and theirs[name] != ours[name]]
        if names:
            rule = f"as in the saved state ({_words(theirs, names)}), got {_words(ours, names)}"
            advice = "prepare the model with the recipe and the data of the one that was saved"
            found.append(f"{owner}: quantizer of {key!r} must be {rule}; {advice}")
    return found


def adopt_signs(quantizers: Mapping[Any, Any], saved: str) -> None:
    """Give quantizers of activations the signs of a saved state."""
    for key, theirs, ours in _pairs(quantizers, saved):
        if theirs[SIGN] != ours[SIGN]:
            quantizers[key].adopt_sign(theirs[SIGN])


def _pairs(quantizers: Mapping[Any, Any], saved: str) -> list[tuple[Any, Any, Any]]:
    """(key, saved structure, present structure) of those that both sides know."""
    known = json.loads(saved)
    present = {key: getattr(quantizer, "structure", {}) for key, quantizer in quantizers.items()}
    return [(key, known[str(key)], ours) for key, ours in present.items() if ours and str(key) in known]


def _words(structure: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {structure[name]}" for name in names)
