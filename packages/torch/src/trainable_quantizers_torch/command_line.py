"""The PyTorch part of the command ``trainable-quantizers``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.errors import invalid


def load_model(path: Path, trust: bool) -> Any:
    """A module saved whole, or the program of a ``.pt2`` file.

    Raises:
        QuantizerError: a pickled module without ``trust``, or a file that holds no module.
        FileNotFoundError: the file does not exist.
    """
    path.stat()
    if path.suffix.lower() == ".pt2":
        program = _loaded(path, torch.export.load).module()
        return lambda *args, **kwargs: program(*args, **kwargs)
    if not trust:
        advice = "unpickling can run any code: add --trust if you know where the file comes from"
        raise invalid("trainable-quantizers", "model", "trusted", str(path), advice)
    model = _loaded(path, lambda file: torch.load(file, map_location="cpu", weights_only=False))
    if not isinstance(model, torch.nn.Module):
        advice = "save the module itself: torch.save(model, path)"
        raise invalid("trainable-quantizers", "model", "a saved module", type(model).__name__, advice, f" in {path}")
    return model


def _loaded(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except Exception as error:  # anything that unpickling raises, such as a missing class
        advice = f"PyTorch says: {type(error).__name__}: {error}; classes of your own must be on PYTHONPATH"
        raise invalid("trainable-quantizers", "model", "one that PyTorch loads", str(path), advice) from error


def as_batch(arrays: list[np.ndarray]) -> tuple[torch.Tensor, ...]:
    """The inputs of a model."""
    return tuple(torch.from_numpy(array) for array in arrays)
