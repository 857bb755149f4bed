"""Calibration by several processes, each with its own data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.calibration.observation import Observation
from trainable_quantizers_core.errors import invalid


def check_group(process_group: Any) -> None:
    """Check the process group; warn if there are several processes that each calibrate alone.

    Raises:
        QuantizerError: a group where no processes are connected.
    """
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    if process_group is not None and not connected:
        advice = "call torch.distributed.init_process_group first"
        raise invalid("prepare", "process_group", "None where no processes are connected", process_group, advice)
    if process_group is None and connected and torch.distributed.get_world_size() > 1:
        text = "prepare: each process calibrates alone, and different data give different ranges and signs"
        warnings.warn(f"{text}; pass process_group=torch.distributed.group.WORLD to merge them.", stacklevel=3)


def merged(seen: Mapping[int, Observation], process_group: Any) -> dict[int, Observation]:
    """The merged statistics of all processes of a group, the same in each; ``seen`` itself without a group.

    Raises:
        QuantizerError: the processes see other operations, because their data take other ways.
    """
    if process_group is None:
        return dict(seen)
    every = _gathered(dict(seen), process_group)
    if any(each.keys() != seen.keys() for each in every):
        advice = "give each process data that run all of the model, or calibrate in one and broadcast its state"
        sizes = [len(each) for each in every]
        raise invalid("prepare", "operations of the processes", "the same", sizes, advice)
    first, *others = every
    for position, observation in first.items():
        for other in others:
            observation.merge(other[position])
    return first


def averaged(values: np.ndarray, process_group: Any) -> np.ndarray:
    """The mean over the processes of a group; ``values`` themselves without a group."""
    if process_group is None:
        return values
    return np.asarray(np.mean(_gathered(values, process_group), axis=0), values.dtype)


def _gathered(value: Any, process_group: Any) -> list[Any]:
    found: list[Any] = [None] * torch.distributed.get_world_size(process_group)
    torch.distributed.all_gather_object(found, value, group=process_group)
    return found
