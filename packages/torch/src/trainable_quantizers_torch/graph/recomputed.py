"""Finds the parts of a forward that ``torch.utils.checkpoint`` recomputes in the backward."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction, checkpoint

_PLAIN, _REENTRANT = inspect.unwrap(checkpoint).__code__, CheckpointFunction.forward.__code__


def saving() -> Any:
    """A key of the part of a forward that is saving tensors for its gradients; equal within one part."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def open_parts(until: CodeType) -> Iterator[tuple[Any, str]]:
    """The parts that have begun since the innermost call of ``until``, and not ended.

    Each is an object with the function to compute again, and the name of the attribute. PyTorch shows no part to
    function modes, and has no other door to this function.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not until:
        part = None, ""
        if frame.f_code is _REENTRANT:
            part = frame.f_locals["ctx"], "run_function"
        elif frame.f_code is _PLAIN and "gen" in frame.f_locals:
            part = frame.f_locals["gen"].gi_frame.f_locals.get("new_frame"), "recompute_fn"
        if part[0] is not None and hasattr(*part):  # it has none before it begins
            yield part
        frame = frame.f_back
