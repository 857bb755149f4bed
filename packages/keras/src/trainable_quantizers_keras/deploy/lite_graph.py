"""Rewrites a TensorFlow graph so that every operation in it is one that the converter turns into integers.

- Weights are constants on their grid already, behind a fake quantizer of 8 bits with the same step.
- Activations have 8 bits; where any has more, all have 16, in which zero is the middle of the grid.
- Narrower activations are clipped to their levels between two fake quantizers of these bits with the same step.
- Products with matrices of a step for each channel are convolutions by 1, which the converter can write so.
- Averages over windows are depthwise convolutions, because an average has the grid of its input in a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.errors import invalid

BITS = 8
WIDE_BITS = 16
_FAKE = "FakeQuantWithMinMaxVars"
_PER_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
_Rule = Callable[[Sequence[tf.Tensor]], tf.Tensor]
_PASSING = ("Identity", "ReadVariableOp", "StopGradient")
_OPERANDS = {
    **dict.fromkeys(("BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative", "Einsum", "MatMul"), (0, 1)),
    "Conv2DBackpropInput": (2, 1),
}
"""Products, and which of their inputs are activations and weights."""
_BETWEEN = (
    *("Add", "AddV2", "BiasAdd", "FusedBatchNormV3", "Maximum", "Minimum", "Mul", "Relu", "Relu6", "Sub"),
    *("BatchToSpaceND", "ExpandDims", "MaxPool", "MirrorPad", "Pad", "PadV2", "Reshape", "SpaceToBatchND", "Squeeze"),
    *("StridedSlice", "Transpose"),
)
"""Operations that the converter fuses into a product, or that move levels."""


class Rewriting:
    """A graph of operations in which each may become others; the last of them keeps its name."""

    def __init__(self, graph: Any) -> None:
        self.source = graph
        self.nodes = {node.name: node for node in graph.node}
        self.known: dict[str, bool] = {}
        """Whether operations follow from constants alone."""
        self.function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        self.centred = True
        """Whether all weights have zero for the middle of their grid, as the integer kernels take for granted."""
        self.made = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
        fakes = [node for node in graph.node if node.op in (_FAKE, _PER_CHANNEL)]
        self._fakes = [node for node in fakes if not self._is_known(node.input[0])]
        self.bits = WIDE_BITS if any(node.attr["num_bits"].i > BITS for node in self._fakes) else BITS
        """The bits of activations."""

    def result(self) -> Any:
        """The rewritten graph."""
        for node in self.source.node:
            rule = self._rule(node)
            if rule is None:
                self.made.node.append(node)
            else:
                graph = tf.Graph()
                with graph.as_default():
                    self._take_over(graph, node, rule)
        return self.made

    def float_weights(self) -> list[str]:
        """Weights without a quantizer that the converter rounds, because what they multiply and give is quantized."""
        found = []
        for node in self._fakes:
            product = self._origin(node.input[0])
            data, weights = (product.input[at] for at in _OPERANDS[product.op]) if product.op in _OPERANDS else ("", "")
            fakes = [self._origin(name).op in (_FAKE, _PER_CHANNEL) for name in (data, weights) if name]
            if fakes == [True, False] and self._is_known(weights):
                found.append("/".join([each for each in product.name.split("/") if each != "Tensordot"][-2:]))
        return found

    def _origin(self, name: str) -> Any:
        """The product or quantizer that gives a tensor, moved or next to constants; else what gives it."""
        node = self._node(name)
        others = [each for each in node.input[1:] if not each.startswith("^")]
        alone = all(self._is_known(each) or self._tensor(each).dtype.is_integer for each in others)
        return self._origin(node.input[0]) if node.op in _BETWEEN and alone else node

    def _rule(self, node: Any) -> _Rule | None:
        """The replacement of an operation, as a function of its inputs; None keeps the operation."""
        if node.op in (_FAKE, _PER_CHANNEL):
            if self._constant(node.input[0]) is not None:
                return self._weights(node)
            return self._activations(node) if node.attr["num_bits"].i != BITS or self.bits != BITS else None
        if node.op == "AvgPool":
            return self._average(node)
        matrix = self._node(node.input[1]) if node.op == "MatMul" else None
        if matrix is not None and matrix.op == _PER_CHANNEL and self._constant(matrix.input[0]) is not None:
            plain = not node.attr["transpose_a"].b and not node.attr["transpose_b"].b
            return self._product(matrix) if plain else None
        if self.bits == BITS or self._is_known(node.name) or "T" not in node.attr:
            return None
        return self._wide(node) if node.attr["T"].type == tf.float32.as_datatype_enum else None

    def _wide(self, node: Any) -> _Rule | None:
        """The replacement of operations that the converter knows only in 8 bits, or only on one grid."""
        if node.op == "ConcatV2":
            return self._joined(node)
        if node.op in _IN_FLOAT:
            return lambda given: _IN_FLOAT[node.op](given[0])
        number = self._constant(node.input[1]) if node.op in ("Add", "AddV2") else None
        if number is not None and np.array_equal(number, 3.0):  # or it becomes a part of HARD_SWISH
            return lambda given: given[0] - tf.constant(-3.0)
        return None

    def _take_over(self, graph: Any, node: Any, rule: _Rule) -> None:
        """Add the operations that a rule makes; they read what the operation read."""
        given = [tf.compat.v1.placeholder(tf.float32, name=f"input_{at}") for at in range(len(node.input))]
        tf.identity(rule(given), name="result")
        for each in graph.as_graph_def().node:
            if each.op == "Placeholder":
                continue
            copy = tf.compat.v1.NodeDef()
            copy.CopyFrom(each)
            copy.name = node.name if each.name == "result" else f"{node.name}/in_8_bits/{each.name}"
            del copy.input[:]
            copy.input.extend(self._renamed(node, name) for name in each.input)
            self.made.node.append(copy)

    def _renamed(self, node: Any, name: str) -> str:
        begin, _, rest = name.lstrip("^").partition(":")
        if begin.startswith("input_"):
            return str(node.input[int(begin[len("input_") :])])
        return f"{node.name}/in_8_bits/{begin}" + (f":{rest}" if rest else "")

    def _node(self, name: str) -> Any:
        """The operation that makes a tensor, past those that pass it on."""
        node = self.nodes[name.lstrip("^").partition(":")[0]]
        return self._node(node.input[0]) if node.op in _PASSING else node

    def _is_known(self, name: str) -> bool:
        begin = name.lstrip("^").partition(":")[0]
        if begin not in self.known:
            node = self.nodes[begin]
            self.known[begin] = node.op == "Const" or (bool(node.input) and all(map(self._is_known, node.input)))
        return self.known[begin]

    def _constant(self, name: str) -> np.ndarray | None:
        """The constant value of a tensor; None if it depends on the inputs."""
        if not self._is_known(name):
            return None
        return np.asarray(self.function.prune([], self._tensor(name))())

    def _range(self, node: Any, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lowest and highest value, and step, of a quantizer that becomes one of ``most`` bits."""
        low, high = (np.asarray(self._constant(name), np.float32) for name in node.input[1:3])
        bits = node.attr["num_bits"].i
        step = (high - low) / np.float32(2**bits - 1)
        advice = "its runtime computes no others; write a .keras file or a SavedModel, or prepare with 8 bits"
        if most == WIDE_BITS:
            if np.rint(np.maximum(-low / step - 1, high / step)).max() >= 2 ** (most - 1):
                rule = "of 15 bits without levels below zero, or of 16 around it, where any has more than 8"
                raise invalid("export", f"quantizer {node.name!r}", rule, bits, advice)
        elif bits > most or (bits < most and not np.all(np.frexp(step)[0] == 0.5)):
            rule = f"of {BITS} bits, or of fewer with powers of two for steps, in a .tflite file"
            raise invalid("export", f"quantizer {node.name!r}", rule, bits, advice)
        return low, high, step

    def _widened(self, node: Any, bits: int = BITS) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the grid of so many bits that has the levels of a quantizer, and zero where it has it."""
        low, high, step = self._range(node, bits)
        if node.attr["num_bits"].i == bits:
            return low, high
        lowest = np.where((low < 0) | (bits == WIDE_BITS), -(2 ** (bits - 1)), 0).astype(np.float32)
        return lowest * step, (lowest + np.float32(2**bits - 1)) * step

    def _quantized(self, node: Any) -> np.ndarray:
        """The values of weights on their grid."""
        low, high, _ = self._range(node, BITS)
        options = {"num_bits": node.attr["num_bits"].i, "narrow_range": node.attr["narrow_range"].b}
        return np.asarray(_function_of(node)(self._constant(node.input[0]), low, high, **options))

    def _weights(self, node: Any) -> _Rule:
        values, (low, high) = self._quantized(node), self._widened(node)
        self.centred &= bool(np.allclose(low * (2 ** (BITS - 1) - 1), -high * 2 ** (BITS - 1)))
        return lambda given: _function_of(node)(tf.constant(values), low, high, BITS)

    def _activations(self, node: Any) -> _Rule:
        (lowest, highest, _), (low, high) = self._range(node, self.bits), self._widened(node, self.bits)

        def quantize(x: tf.Tensor) -> tf.Tensor:
            return _function_of(node)(x, low, high, self.bits)

        return lambda given: quantize(tf.clip_by_value(quantize(given[0]), lowest, highest))

    def _average(self, node: Any) -> _Rule | None:
        shape = self._tensor(node.name).shape
        window, strides = node.attr["ksize"].list.i[1:3], node.attr["strides"].list.i[1:3]
        if node.attr["data_format"].s != b"NHWC" or node.attr["padding"].s != b"VALID" or shape[-1] is None:
            return None
        if len(set(strides)) > 1:  # not supported by depthwise convolutions
            return None
        part = np.float32(1 / np.prod(window))
        kernel = np.full((*window, shape[-1], 1), part)
        ends = -(part * 2 ** (BITS - 1)), part * (2 ** (BITS - 1) - 1)

        def average(given: Sequence[tf.Tensor]) -> tf.Tensor:
            quantized = tf.quantization.fake_quant_with_min_max_vars(tf.constant(kernel), *ends, BITS)
            return tf.nn.depthwise_conv2d(given[0], quantized, [1, *strides, 1], "VALID")

        return average

    def _joined(self, node: Any) -> _Rule:
        axis = int(np.asarray(self._constant(node.input[-1])))
        sizes = [self._tensor(name).shape.with_rank_at_least(1)[axis] for name in node.input[:-1]]
        starts = np.cumsum([0, *sizes])

        def join(given: Sequence[tf.Tensor]) -> tf.Tensor:
            rank = self._tensor(node.name).shape.rank
            parts = []
            for at, part in enumerate(given[:-1]):
                padding = np.zeros((rank, 2), np.int32)
                padding[axis] = starts[at], starts[-1] - starts[at + 1]
                parts.append(tf.pad(part, padding))
            return functools.reduce(tf.add, parts)

        return join

    def _tensor(self, name: str) -> Any:
        return self.function.graph.as_graph_element(name if ":" in name else f"{name}:0")

    def _product(self, matrix: Any) -> _Rule:
        values, (low, high) = self._quantized(matrix)[None, None], self._widened(matrix)

        def multiply(given: Sequence[tf.Tensor]) -> tf.Tensor:
            kernel = _function_of(matrix)(tf.constant(values), low, high, BITS)
            pixels = tf.reshape(given[0], [-1, 1, 1, values.shape[2]])
            return tf.squeeze(tf.nn.conv2d(pixels, kernel, 1, "VALID"), [1, 2])

        return multiply


def _softmax(x: tf.Tensor) -> tf.Tensor:
    powers = tf.exp(x - tf.reduce_max(x, -1, keepdims=True))
    return powers * (1.0 / tf.reduce_sum(powers, -1, keepdims=True))


_IN_FLOAT = {
    "Sigmoid": lambda x: 1.0 - 1.0 / (1.0 + tf.exp(x)),
    "Softmax": _softmax,
    "Tanh": lambda x: 1.0 - 2.0 / (1.0 + tf.exp(2.0 * x)),
}
"""Functions whose kernels of 16 bits give steps of 2^-15 alone: by operations that the converter leaves in float."""


def _function_of(node: Any) -> Callable[..., tf.Tensor]:
    if node.op == _PER_CHANNEL:
        return tf.quantization.fake_quant_with_min_max_vars_per_channel  # type: ignore[no-any-return]
    return tf.quantization.fake_quant_with_min_max_vars  # type: ignore[no-any-return]
