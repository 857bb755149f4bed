"""The Keras part of the command ``trainable-quantizers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.load_model import keras_load_quantized_model


def load_model(path: Path, trust: bool) -> Any:
    """A saved model; Keras refuses what could run code by itself.

    Raises:
        QuantizerError: Keras cannot load it.
        FileNotFoundError: the file does not exist.
    """
    path.stat()
    try:
        return keras_load_quantized_model(path, compile=False)
    except Exception as error:  # anything that Keras raises
        advice = f"Keras says: {str(error).strip().partition(chr(10))[0]}"
        raise invalid("trainable-quantizers", "model", "one that Keras loads", str(path), advice) from error


def as_batch(arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The inputs of a model."""
    return tuple(arrays)
