"""A model as a function that takes and returns only tensors, as files and programs require."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from trainable_quantizers_torch.calibration.batches import name_of, names_of_tensors


class FlatModel(nn.Module):
    """A model as a function of tensors alone, as the inputs and outputs of an ONNX file are.

    Args:
        model: Takes any arguments, and gives any result.
        args: An example of them, which also holds what is no tensor.
        kwargs: Those by name.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self._given, self._structure = _pytree.tree_flatten((args, dict(kwargs)))
        self.tensors = tuple(leaf for leaf in self._given if isinstance(leaf, torch.Tensor))
        names = names_of_tensors(model, args, kwargs)
        self.inputs = _unique([names[id(tensor)] for tensor in self.tensors], ())
        results, _ = _pytree.tree_flatten_with_path(model(*args, **kwargs))
        paths = [name_of(path) or "output" for path, leaf in results if isinstance(leaf, torch.Tensor)]
        self.outputs = _unique([f"output_{path}" if path.isdigit() else path for path in paths], self.inputs)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The tensors of the model's result: one, or a tuple."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._given]
        args, kwargs = _pytree.tree_unflatten(leaves, self._structure)
        results = [leaf for leaf in _pytree.tree_leaves(self.model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        return tuple(results) if len(results) > 1 else results[0]


def _unique(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The names made unique: those already taken get a number."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        others = (*taken, *found)
        found.append(name if name not in others else next(each for each in numbered if each not in others))
    return found
