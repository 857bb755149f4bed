"""Calling a module with other tensors in the place of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def call_with(module: nn.Module, weights: Mapping[str, torch.Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
    """The result of ``module(*args, **kwargs)`` with these weights; nothing of them stays behind.

    Recurrent modules of PyTorch keep a list beside their parameters, which would keep these weights.

    Example:
        >>> x = torch.randn(2, 3)
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> torch.equal(call_with(layer, {"weight": torch.ones(1, 3)}, (x,), {}), x @ torch.ones(3, 1))
        True
    """
    if not isinstance(module, nn.RNNBase):
        return functional_call(module, dict(weights), args, kwargs)
    kept = module._flat_weights, module._flat_weight_refs
    try:
        return functional_call(module, dict(weights), args, kwargs)
    finally:
        module._flat_weights, module._flat_weight_refs = kept
