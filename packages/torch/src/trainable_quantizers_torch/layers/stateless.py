"""Calls a module with other tensors in place of its weights, without changing the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Substituted(TorchFunctionMode):
    """Shows functions other tensors in place of some; nothing is written, so that threads do not interfere."""

    def __init__(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.pairs = pairs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """PyTorch calls this in place of a function."""
        args = tuple(self._other(arg) for arg in args)
        return func(*args, **{name: self._other(arg) for name, arg in (kwargs or {}).items()})

    def _other(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            for old, new in self.pairs:
                if value is old:
                    return new
        elif type(value) in (list, tuple):
            return type(value)(self._other(item) for item in value)
        return value


def call_with(module: nn.Module, weights: Mapping[str, torch.Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
    """The result of ``module(*args, **kwargs)`` with other tensors in place of some of its parameters.

    Examples:
        >>> x = torch.randn(2, 3)
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> torch.equal(call_with(layer, {"weight": torch.ones(1, 3)}, (x,), {}), x @ torch.ones(3, 1))
        True
    """
    with _Substituted([(getattr(module, name), weight) for name, weight in weights.items()]):
        return module(*args, **kwargs)


def without_modes() -> Any:
    """A context in which no function mode, ours or another, sees the computation."""
    return torch._C.DisableTorchFunction()
