"""What the program ``trainable-quantizers`` needs of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.errors import invalid


def load_model(path: Path, trust: bool) -> Any:
    """A module saved whole, or the program of a ``.pt2`` file.

    Raises:
        QuantizerError: a pickled module without ``trust``, or a file that holds no module.
    """
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda *args, **kwargs: program(*args, **kwargs)
    if not trust:
        advice = "unpickling can run any code: add --trust if you know where the file comes from"
        raise invalid("trainable-quantizers", "model", "trusted", str(path), advice)
    model = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(model, torch.nn.Module):
        advice = "save the module itself: torch.save(model, path)"
        raise invalid("trainable-quantizers", "model", "a saved module", type(model).__name__, advice, f" in {path}")
    return model


def as_batch(arrays: list[np.ndarray]) -> tuple[torch.Tensor, ...]:
    """The inputs of a model."""
    return tuple(torch.from_numpy(array) for array in arrays)
