"""Translates PyTorch operators to the terms of ``trainable_quantizers_core.integer``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition

from trainable_quantizers_torch.deploy.moves import MOVES
from trainable_quantizers_torch.deploy.sums import SUMS

RULES = {**SUMS, **MOVES}
ELEMENTWISE = {
    "abs": "absolute",
    "add": "add",
    "clamp": "clip",
    "cos": "cosine",
    "div": "divide",
    "elu": "elu",
    "eq": "equal",
    "erf": "erf",
    "exp": "exp",
    "ge": "greater_equal",
    "gelu": "gelu",
    "gt": "greater",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "hardtanh": "clip",
    "le": "less_equal",
    "leaky_relu": "leaky_relu",
    "log": "logarithm",
    "logical_and": "logical_and",
    "logical_not": "logical_not",
    "logical_or": "logical_or",
    "lt": "less",
    "maximum": "maximum",
    "minimum": "minimum",
    "mish": "mish",
    "mul": "multiply",
    "ne": "not_equal",
    "neg": "negate",
    "pow": "power",
    "relu": "clip",
    "relu6": "clip",
    "rsqrt": "rsqrt",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "sin": "sine",
    "softplus": "softplus",
    "sqrt": "square_root",
    "sub": "subtract",
    "tanh": "tanh",
    "where": "where",
}
"""Operators that compute each value from the values at the same place: ours by PyTorch's names."""
SAME = {
    "_assert_tensor_metadata",
    "_to_copy",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "lift_fresh_copy",
    "to",
}
"""Operators that change no value in evaluation."""


class AtenTranslation(Translation):
    """Turns the operators of ``torch.export`` into nodes."""

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Any]) -> Any:
        """The results of an operator for nodes and constants: nodes, or a constant if it reads no node."""
        if target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(leaf, Node) for leaf in _pytree.tree_leaves((args, kwargs))):
            return target(*args, **kwargs)
        word = target._schema.name.removeprefix("aten::")
        named = {argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
        given = {**defaults, **named, **kwargs}
        if word in SAME:
            return next(iter(given.values()))
        if word in ELEMENTWISE:
            return self._elementwise(word, target, args, kwargs, given, shapes[0])
        rule = RULES.get(word)
        if rule is None:
            raise no_definition(f"aten.{word}", self.name)
        return rule(self, given, shapes)

    def _elementwise(
        self, word: str, target: Any, args: Any, kwargs: Any, given: Mapping[str, Any], shape: Sequence[int]
    ) -> Node:
        leaves, structure = _pytree.tree_flatten((args, kwargs))

        def function(*arrays: np.ndarray) -> np.ndarray:
            tensors = iter(map(torch.from_numpy, arrays))
            filled = [next(tensors) if isinstance(leaf, Node) else leaf for leaf in leaves]
            again, options = _pytree.tree_unflatten(filled, structure)
            return target(*again, **options).numpy()  # type: ignore[no-any-return]

        kind, attributes = ELEMENTWISE[word], {}
        inputs = [np.float32(leaf) if isinstance(leaf, (int, float)) else leaf for leaf in _inputs(args, kwargs)]
        if kind == "clip":
            low, high = _CLIPS[word](given)
            inputs, attributes = inputs[:1], {"low": low, "high": high}
        elif given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
            raise no_definition(f"aten.{word} with alpha or rounding_mode", self.name)
        elif word in ("add", "sub"):
            inputs = inputs[:2]  # alpha may stand behind them
        elif kind == "leaky_relu":
            inputs, attributes = inputs[:1], {"slope": given["negative_slope"]}
        elif kind not in _SEVERAL:
            inputs = inputs[:1]
            attributes = {key: value for key, value in given.items() if key not in ("self", "input")}
        return self.node(kind, inputs, shape, function, **attributes)


_SEVERAL = {"absolute", "negate"} | {"add", "divide", "maximum", "minimum", "multiply", "power", "subtract", "where"}
_SEVERAL |= {"equal", "greater", "greater_equal", "less", "less_equal", "not_equal", "logical_and", "logical_or"}
_CLIPS: dict[str, Callable[[Mapping[str, Any]], tuple[Any, Any]]] = {
    "clamp": lambda given: (given["min"], given["max"]),
    "hardtanh": lambda given: (given["min_val"], given["max_val"]),
    "relu": lambda given: (0.0, None),
    "relu6": lambda given: (0.0, 6.0),
}


def _inputs(args: Any, kwargs: Any) -> list[Any]:
    return [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if leaf is not None and not isinstance(leaf, bool)]
