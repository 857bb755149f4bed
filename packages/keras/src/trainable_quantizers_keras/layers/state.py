"""The extra state that wrappers and holders add to weight files and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.structure import structural_differences, structure_of

_STRUCTURE = "structure"


class StructuredState:
    """A layer whose state includes the structure of its quantizers, and which refuses a state of another structure.

    The sign of activations is part of it: Keras traces graphs, in which it is a constant.
    """

    def save_own_variables(self, store: Any) -> None:
        """Write variables and structure, as Keras does for ``.keras`` and ``.weights.h5`` files."""
        super().save_own_variables(store)  # type: ignore[misc]
        store[_STRUCTURE] = np.frombuffer(structure_of(_quantizers_of(self)).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Load variables that were saved from quantizers of the same structure.

        Raises:
            QuantizerError: they were saved from others, or from none. Keras 3 comes along several paths, most of which
                the file does not know, and forgets what was wrong as soon as one of them loads.
        """
        numbers = {key: store[key] for key in store.keys() if key != _STRUCTURE}  # noqa: SIM118 (no dictionary)
        if _STRUCTURE not in store.keys():  # noqa: SIM118
            raise _of_another(self, "no quantizers")
        _check(self, bytes(np.asarray(store[_STRUCTURE])).decode(errors="replace"))
        super().load_own_variables(numbers)  # type: ignore[misc]

    def track_structure(self) -> None:
        """Make ``tf.train.Checkpoint`` save the structure, and compare it."""
        if structure_of(_quantizers_of(self)) != "{}":
            self._track_trackable(_Structure(self), _STRUCTURE, overwrite=True)  # type: ignore[attr-defined]


class _Structure(tf.train.experimental.PythonState):
    """The structure of a layer's quantizers in a checkpoint."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def serialize(self) -> str:
        """The structure to save."""
        return structure_of(_quantizers_of(self.layer))

    def deserialize(self, string_value: Any) -> None:
        """Compare with what was saved."""
        _check(self.layer, tf.compat.as_text(string_value))


def _check(layer: Any, text: str) -> None:
    quantizers = _quantizers_of(layer)
    try:
        differing = structural_differences(layer.name, quantizers, text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule, advice = "as this package writes it", f"the file is damaged: {error}"
        raise invalid(layer.name, "structure in the file", rule, text, advice) from error
    if differing:
        raise QuantizerError("; ".join(differing))
    if (text == "{}") != (structure_of(quantizers) == "{}"):
        raise _of_another(layer, "trainable quantizers" if text != "{}" else "inferable quantizers")


def _of_another(layer: Any, value: str) -> QuantizerError:
    advice = "load what a prepared model saved into a prepared one, what a converted model saved into a converted one"
    return invalid(layer.name, "state in the file", "of quantizers as those of the layer", value, advice)


def _quantizers_of(layer: Any) -> Mapping[Any, Any]:
    weights = getattr(layer, "weights_quantizers", None)
    return {"out": layer.activation_holder_quantizer} if weights is None else weights
