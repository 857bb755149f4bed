"""Quantized weights as attributes of a layer: reading gives quantized values, writing changes the float ones."""

from __future__ import annotations

import copy
from typing import Any

import torch

from trainable_quantizers_torch.kernels.operator import on_cpu


class Quantized(torch.Tensor):
    """The quantized values of a weight; in-place changes and new data go to the float weight.

    Examples:
        >>> weight = torch.tensor([0.3, 0.8])
        >>> shown = showing(torch.tensor([0.5, 1.0]), weight)
        >>> shown.data.mul_(2).tolist(), (shown + 1).tolist(), type(shown + 1).__name__
        ([0.6000000238418579, 1.600000023841858], [1.5, 2.0], 'Tensor')
        >>> weight.tolist()
        [0.6000000238418579, 1.600000023841858]
    """

    float_one: torch.Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """PyTorch calls this in place of a function."""
        kwargs = kwargs or {}
        shown = args[0] if args else kwargs.get("tensor")  # as torch.nn.init names it
        name = getattr(func, "__name__", "")
        changes = name in ("__set__", "__setitem__") or (name.endswith("_") and not name.endswith("__"))
        if isinstance(shown, cls) and (changes or func == torch.Tensor.grad.__get__):  # type: ignore[attr-defined]
            if args:
                return func(shown.float_one, *args[1:], **kwargs)
            return func(**{**kwargs, "tensor": shown.float_one})
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if isinstance(shown, cls) and func in (torch.Tensor.detach, torch.Tensor.data.__get__):  # type: ignore[attr-defined]
                return showing(result, func(shown.float_one))
        return result

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(_plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)


def _plain(shown: torch.Tensor) -> torch.Tensor:
    """The plain values: a copy or a file of them has no layer to change."""
    with torch._C.DisableTorchFunctionSubclass():
        return shown.as_subclass(torch.Tensor)


def showing(values: torch.Tensor, float_one: torch.Tensor) -> torch.Tensor:
    """The values, backed by the float ones; unchanged where a forward or a compiler reads them."""
    if not on_cpu(values) or torch._C._len_torch_function_stack():
        return values
    shown = values.as_subclass(Quantized)
    shown.float_one = float_one
    return shown
