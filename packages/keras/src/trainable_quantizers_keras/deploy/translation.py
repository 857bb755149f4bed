"""Translates TensorFlow operations to the terms of ``trainable_quantizers_core.integer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from trainable_quantizers_core.integer.dataflow import Node, Translation, no_definition

from trainable_quantizers_keras.deploy.evaluation import evaluated
from trainable_quantizers_keras.deploy.moves import MOVES
from trainable_quantizers_keras.deploy.sums import SUMS, biased

RULES = {**SUMS, **MOVES}
ELEMENTWISE = {
    "Abs": "absolute",
    "Add": "add",
    "AddV2": "add",
    "Cos": "cosine",
    "Elu": "elu",
    "Equal": "equal",
    "Erf": "erf",
    "Erfc": "erfc",
    "Exp": "exp",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "LeakyRelu": "leaky_relu",
    "Less": "less",
    "LessEqual": "less_equal",
    "Log": "logarithm",
    "LogicalAnd": "logical_and",
    "LogicalNot": "logical_not",
    "LogicalOr": "logical_or",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Mul": "multiply",
    "Neg": "negate",
    "NotEqual": "not_equal",
    "Pow": "power",
    "RealDiv": "divide",
    "Rsqrt": "rsqrt",
    "SelectV2": "where",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Sin": "sine",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "square_root",
    "Square": "square",
    "Sub": "subtract",
    "Tanh": "tanh",
}
"""Operations that compute each value from the values at the same place: ours by TensorFlow's names."""
CLIPS = {"Relu": (0.0, None), "Relu6": (0.0, 6.0)}
SAME = {"Cast", "Identity", "IdentityN", "PreventGradient", "Snapshot", "StopGradient"}
"""Operations that change no value in evaluation."""


class TensorFlowTranslation(Translation):
    """Turns the operators of TensorFlow into nodes."""

    def call(self, operation: Any, inputs: Sequence[Any]) -> list[Any]:
        """The results of an operation for nodes and constants: nodes, or constants if it reads no node."""
        kind, known = operation.type, [tensor.shape for tensor in operation.outputs]
        shapes = [tuple(shape) if shape.rank is not None else () for shape in known]
        if kind == "Shape":
            return [np.array(inputs[0].shape, operation.outputs[0].dtype.as_numpy_dtype)]
        if not any(isinstance(each, Node) for each in inputs):
            return evaluated(operation, inputs)
        if kind == "Cast" and _loses(operation):
            raise no_definition(f"a cast to {operation.outputs[0].dtype.name}", self.name)
        if kind in SAME:
            return list(inputs)
        if kind in ELEMENTWISE or kind in CLIPS or kind == "ClipByValue":
            return [self._elementwise(operation, inputs, shapes[0])]
        rule = RULES.get(kind)
        if rule is None or not known[0].is_fully_defined():
            raise no_definition(kind if rule is None else f"{kind} of unknown shape", self.name)
        found = rule(self, operation, inputs, shapes[0])
        return found if isinstance(found, list) else [found]

    def _elementwise(self, operation: Any, inputs: Sequence[Any], shape: Sequence[int]) -> Node:
        def function(*arrays: np.ndarray) -> np.ndarray:
            given = iter(arrays)
            filled = [next(given) if isinstance(each, Node) else each for each in inputs]
            return evaluated(operation, filled)[0]  # type: ignore[no-any-return]

        kind = ELEMENTWISE.get(operation.type, "clip")
        if kind == "leaky_relu":
            return self.node(kind, inputs, shape, function, slope=operation.get_attr("alpha"))
        if kind != "clip":
            whole = biased(self, inputs, shape) if kind == "add" else None
            return whole or self.node(kind, inputs, shape, function)
        low, high = CLIPS.get(operation.type) or (float(each) for each in inputs[1:])
        return self.node("clip", inputs[:1], shape, function, low=low, high=high)


def _loses(operation: Any) -> bool:
    """Whether an operation casts floats to integers, or to floats of fewer bits."""
    before, after = operation.inputs[0].dtype, operation.outputs[0].dtype
    return before.is_floating and (not after.is_floating or after.size < before.size)
