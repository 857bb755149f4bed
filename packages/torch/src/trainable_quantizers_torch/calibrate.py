"""Statistics of activations, gathered where quantizers will stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from trainable_quantizers_core import TensorStatistics
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.progress import track

from trainable_quantizers_torch.trace import arguments_of, modes_kept


class Observer(nn.Module):
    """Passes a tensor on and keeps its statistics, in constant memory."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = TensorStatistics()
        self.left_in_float = "calibration never reached it"

    def forward(self, x: Any) -> Any:
        """``x`` itself."""
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            self.statistics.update(x.detach().float().cpu().numpy())
            self.left_in_float = ""
        else:
            self.left_in_float = "not a floating tensor"
        return x


@torch.no_grad()
def calibrate(model: nn.Module, data: Any, verbose: bool) -> None:
    """Run the model on batches, in evaluation, for its observers to see.

    Raises:
        QuantizerError: ``data`` is missing, no iterable, or empty, or the model does not take one of its batches.
    """
    if isinstance(data, (torch.Tensor, Mapping)):
        data = [data]
    if not isinstance(data, Iterable):
        advice = "pass a DataLoader or a list of batches: thresholds of activations are set from data"
        raise invalid("prepare", "calibration_data", "an iterable of batches", data, advice)
    count = 0
    with modes_kept(model):
        model.eval()
        for batch in track(data, "calibrating", verbose):
            positional, keywords = arguments_of(model, batch)
            try:
                model(*positional, **keywords)
            except Exception as error:  # whatever the user's forward raises
                rule = "batches that the model takes: a tensor, a tuple of inputs, or a dictionary of keywords"
                advice = f"the model says: {type(error).__name__}: {error}"
                where = f" in batch {count}"
                raise invalid("prepare", "calibration_data", rule, _in_words(batch), advice, where) from error
            count += 1
    if not count:
        advice = "an iterator that was used before is empty: pass a list or a DataLoader"
        raise invalid("prepare", "calibration_data", "at least one batch", data, advice)


def _in_words(batch: Any) -> str:
    """Types and shapes, where the values themselves would fill the screen."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {_in_words(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(map(_in_words, batch)) + ")"
    return type(batch).__name__
