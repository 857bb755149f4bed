"""Maps functions as compilers show them to function modes to the functions that an eager run shows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]

FUNCTIONS: dict[Function, Function] = {
    torch.rms_norm: nn.functional.rms_norm,
    torch.threshold: nn.functional.threshold,
    operator.neg: Tensor.neg,
    operator.abs: Tensor.abs,
    operator.pos: Tensor.positive,
}
"""The functions that a run calls where a compiler shows another one, with the same arguments."""

OPERATORS: dict[Function, tuple[Function, Function]] = {
    operator.add: (Tensor.add, Tensor.add),
    operator.sub: (Tensor.sub, Tensor.__rsub__),
    operator.mul: (Tensor.mul, Tensor.mul),
    operator.truediv: (Tensor.div, Tensor.__rtruediv__),
    operator.matmul: (Tensor.matmul, Tensor.__rmatmul__),
    operator.pow: (Tensor.__pow__, Tensor.__rpow__),
    operator.floordiv: (Tensor.__floordiv__, Tensor.__rfloordiv__),
    operator.mod: (Tensor.remainder, Tensor.__rmod__),
    operator.iadd: (Tensor.add_, Tensor.add),
    operator.isub: (Tensor.sub_, Tensor.__rsub__),
    operator.imul: (Tensor.mul_, Tensor.mul),
    operator.itruediv: (Tensor.div_, Tensor.__rtruediv__),
    operator.imatmul: (Tensor.matmul, Tensor.__rmatmul__),
    operator.ipow: (Tensor.__ipow__, Tensor.__rpow__),
    operator.ifloordiv: (Tensor.floor_divide_, Tensor.__rfloordiv__),
    operator.imod: (Tensor.remainder_, Tensor.__rmod__),
}
"""The methods that a run calls: of a tensor on the left, and of one on the right alone."""


def as_method(function: Function, args: tuple[Any, ...]) -> tuple[Function, tuple[Any, ...]]:
    """The method and the arguments that a run shows for an operator that a compiler shows.

    Examples:
        >>> found, args = as_method(operator.sub, (2, torch.ones(1)))
        >>> found is Tensor.__rsub__, args
        (True, (tensor([1.]), 2))
    """
    left, right = OPERATORS[function]
    return (left, args) if isinstance(args[0], Tensor) else (right, args[::-1])
