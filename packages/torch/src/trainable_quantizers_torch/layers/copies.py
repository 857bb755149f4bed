"""Copies models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.errors import invalid

Function = TypeVar("Function", bound=Callable[..., Any])


def trainable(function: Function) -> Function:
    """The function run outside ``torch.inference_mode``, which would make tensors that cannot be trained."""

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return outside  # type: ignore[return-value]


def copied(model: nn.Module, owner: str) -> nn.Module:
    """A deep copy; results with gradients that a forward keeps are copied as values.

    Raises:
        QuantizerError: something in the model cannot be copied.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> layer.kept = layer(torch.ones(1, 2))
        >>> copied(layer, "example").kept.requires_grad
        False
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for leaf in _pytree.tree_leaves(value):
                if isinstance(leaf, torch.Tensor) and not leaf.is_leaf:
                    memo[id(leaf)] = leaf.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # anything that a module raises if it cannot be copied
        advice = f"copying says: {error}"
        raise invalid(owner, "model", "one that copy.deepcopy can copy", type(model).__name__, advice) from error
