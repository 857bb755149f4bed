"""Files of learned parameters that both frameworks read.

The file is a safetensors file of one float32 tensor for each quantizer and variable, named
``{position}.{variable}``. Its metadata hold ``format``, ``framework`` and, as JSON, ``quantizers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import TABLE, TARGETS
from trainable_quantizers_core.errors import QuantizerError, invalid, nearest
from trainable_quantizers_core.files import optional, write_atomically

FORMAT = "trainable-quantizers 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizerState:
    """The parameters of one quantizer, and the facts that give them meaning.

    Args:
        layer: Name of the layer.
        attribute: The quantized part of it: ``weight``, ``kernel``, ``output``, ...
        target: ``"weights"`` or ``"activation"``.
        quantizer: Name of the quantizer's class.
        method: POWER_OF_TWO, SYMMETRIC or UNIFORM, or that of a look-up table.
        num_bits: Bits of a level.
        signed: Whether there are levels below zero.
        per_channel: Whether each channel has parameters of its own.
        values: Raw variables by name, finite float32, of shape () or (channels,); a table is of shape (entries,).
        config: The quantizer's ``get_config()``, for readers of the file.

    Raises:
        QuantizerError: values of another type or shape, or not finite.
    """

    layer: str
    attribute: str
    target: str
    quantizer: str
    method: QuantizationMethod
    num_bits: int
    signed: bool
    per_channel: bool
    values: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                advice = f"pass {kind.__name__}, not {type(value).__name__}"
                raise invalid("QuantizerState", name, f"of type {kind.__name__}", value, advice)
        if self.target not in TARGETS:
            advice = nearest(self.target, TARGETS)
            raise invalid("QuantizerState", "target", "'weights' or 'activation'", self.target, advice)
        for name, value in self.values.items():
            argument = f"{name} of {self}"
            array = np.asarray(value)
            if array.dtype != np.float32:
                raise invalid("QuantizerState", argument, "float32", str(array.dtype), "convert it without loss")
            expected = (2**self.num_bits,) if name == TABLE else None
            if array.shape != expected if expected else array.ndim != self.per_channel:
                rule = f"of shape {expected or ('(channels,)' if self.per_channel else '()')}"
                advice = "a table has 2^num_bits entries" if expected else "per_channel decides the shape"
                raise invalid("QuantizerState", argument, rule, array.shape, advice)
            if not np.isfinite(array).all():
                advice = "training diverged, or the file is damaged"
                raise invalid("QuantizerState", argument, "finite", array.tolist(), advice)

    def __str__(self) -> str:
        return f"{self.layer}.{self.attribute}"

    @property
    def channels(self) -> int | None:
        """Number of channels; None per tensor."""
        sizes = [value.size for name, value in self.values.items() if name != TABLE]
        return sizes[0] if self.per_channel and sizes else None


_TYPES: dict[str, type] = {
    **dict.fromkeys(("layer", "attribute", "target", "quantizer"), str),
    **dict.fromkeys(("signed", "per_channel"), bool),
    **dict.fromkeys(("values", "config"), Mapping),
    "method": QuantizationMethod,
    "num_bits": int,
}


def save_parameters(path: str | os.PathLike[str], states: Iterable[QuantizerState], framework: str = "") -> None:
    """Write ``states`` to a file; a failure leaves an older file as it was.

    Args:
        path: The file.
        states: One for each quantizer, in the order of the model.
        framework: Their framework, for readers of the file.

    Raises:
        QuantizerError: a ``config`` that JSON cannot hold.
        ImportError: safetensors is not installed; the message says how to install it.
    """
    states = list(states)
    try:
        quantizers = json.dumps([_describe(state) for state in states])
    except TypeError as error:
        raise invalid("save_parameters", "config", "what JSON holds", str(error), "give get_config()") from error
    tensors = {
        f"{index}.{name}": np.array(value)  # contiguous, as safetensors assumes
        for index, state in enumerate(states)
        for name, value in state.values.items()
    }
    metadata = {"format": FORMAT, "framework": framework, "quantizers": quantizers}
    write_atomically(path, optional("safetensors.numpy", "portability").save(tensors, metadata))


def load_parameters(path: str | os.PathLike[str]) -> tuple[QuantizerState, ...]:
    """The states that ``save_parameters`` was given, bit for bit.

    Raises:
        QuantizerError: no such file as ``save_parameters`` writes, or a damaged one.
        FileNotFoundError: the file does not exist.
        ImportError: safetensors is not installed; the message says how to install it.
    """
    safetensors = optional("safetensors", "portability")
    path = Path(path)
    path.stat()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except safetensors.SafetensorError as error:
        raise invalid("load_parameters", "path", "a safetensors file", str(path), f"it is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        advice = "read it with the version that wrote it, or write it with save_parameters"
        raise invalid("load_parameters", "format", repr(FORMAT), metadata.get("format"), advice, f" in {path}")
    try:
        quantizers = json.loads(metadata["quantizers"])
        return tuple(_restore(index, facts, tensors) for index, facts in enumerate(quantizers))
    except QuantizerError as error:
        raise QuantizerError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        advice = f"it is damaged: {type(error).__name__}: {error}"
        raise invalid("load_parameters", "quantizers", "as save_parameters writes them", str(path), advice) from error


def _describe(state: QuantizerState) -> dict[str, Any]:
    return {**vars(state), "method": state.method.name, "values": list(state.values), "channels": state.channels}


def _restore(index: int, facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> QuantizerState:
    facts = dict(facts)
    values = {name: tensors[f"{index}.{name}"] for name in facts.pop("values")}
    channels = facts.pop("channels")
    state = QuantizerState(**{**facts, "method": QuantizationMethod[facts["method"]], "values": values})
    if state.channels != channels:
        raise invalid("load_parameters", f"channels of {state}", str(channels), state.channels, "the file is damaged")
    return state
