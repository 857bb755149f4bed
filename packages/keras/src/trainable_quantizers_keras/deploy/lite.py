"""A converted model as a LiteRT file of integers; PyTorch has ONNX files instead.

The converter of TensorFlow makes integers of what stands between fake quantizers of 8 bits, or of 16 bits for
activations, at their ranges. This module rewrites the graph of the model, so that it finds nothing else:

- weights are constants on their grid already, behind a fake quantizer of 8 bits with the same step;
- activations have 8 bits; where any has more, all have 16, in which zero is the middle of the grid;
- narrower activations are clipped to their levels between two fake quantizers of these bits with the same step;
- products with matrices of a step for each channel are convolutions by 1, which the converter can write so;
- averages over windows are depthwise convolutions, because an average has the grid of its input in a file.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from trainable_quantizers_core.errors import invalid

_BITS = 8
_WIDE_BITS = 16
_INT16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
_BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Among the inputs of operations."""
_FAKE = "FakeQuantWithMinMaxVars"
_PER_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
_Rule = Callable[[Sequence[tf.Tensor]], tf.Tensor]
_PASSING = ("Identity", "ReadVariableOp", "StopGradient")


def lite_model(function: Any, folder: Path) -> bytes:
    """The LiteRT file of a concrete function with a dictionary of results.

    Args:
        function: Its fake quantizers of weights have at most 8 bits; those of fewer have powers of two for steps, as
            those of activations have. Where any of activations has more than 8, their levels fit 16 bits around zero.
        folder: For a SavedModel, from which converters of every TensorFlow take names.

    Raises:
        QuantizerError: a quantizer of more bits, or of fewer with another step.
    """
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    rewriting = _Rewriting(frozen.graph.as_graph_def())
    graph = rewriting.result()
    feeds = [tensor.name for tensor in frozen.inputs]
    fetches = dict(zip(sorted(function.structured_outputs), (each.name for each in frozen.outputs), strict=True))
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    pruned = imported.prune(
        [imported.graph.as_graph_element(name) for name in feeds],
        {key: imported.graph.as_graph_element(name) for key, name in fetches.items()},
    )

    @tf.function(input_signature=[tf.TensorSpec(each.shape, each.dtype, each.op.name) for each in frozen.inputs])
    def serve(*values: tf.Tensor) -> Any:
        return pruned(*values)

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(folder), serve, tf.saved_model.SaveOptions(experimental_custom_gradients=False))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    if rewriting.bits == _WIDE_BITS:
        return _of_16_bits(converter)
    if rewriting.centred:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with suppress(Exception):  # it cannot make integers of all, or writes what no interpreter takes
            data = bytes(converter.convert())
            tf.lite.Interpreter(model_content=data)
            return data
    converter.optimizations = []
    return bytes(converter.convert())


def _of_16_bits(converter: Any) -> bytes:
    """A file of 16-bit activations and 8-bit weights; its kernels add to biases of 64 bits.

    Raises:
        QuantizerError: the converter or the kernels know an operation in 8 bits alone.
    """
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [_INT16, tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        data = _with_wide_biases(bytearray(converter.convert()))
        tf.lite.Interpreter(model_content=data).allocate_tensors()
    except Exception as error:  # whatever the two raise
        rule = f"of operations that a .tflite file has in {_WIDE_BITS} bits, where activations have more than {_BITS}"
        said = re.search(r"'tfl\.\w+' op .*", str(error)) or re.search(r".*", str(error).strip())
        advice = f"TensorFlow says: {said and said.group()}"
        raise invalid("export", "model", rule, "another", advice) from error
    return data


def _with_wide_biases(data: bytearray) -> bytes:
    """The file with biases of 64 bits, which all kernels of 16-bit activations take."""
    model = flatbuffer_utils.convert_bytearray_to_object(data)
    types = flatbuffer_utils.schema_fb.TensorType
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
            for index in operator.inputs[_BIASES.get(kind, len(operator.inputs)) :][:1]:
                bias = graph.tensors[index]
                if index >= 0 and bias.type == types.INT32:
                    buffer = copy.copy(model.buffers[bias.buffer])  # which other tensors may share
                    buffer.data = np.frombuffer(bytes(buffer.data), np.int32).astype(np.int64).view(np.uint8)
                    model.buffers.append(buffer)
                    bias.type, bias.buffer = types.INT64, len(model.buffers) - 1
            if hasattr(operator.builtinOptions, "potScaleInt16"):  # a mode that rounds each operand of a sum
                operator.builtinOptions.potScaleInt16 = False
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def float_operations(data: bytes) -> list[str]:
    """Operations of a LiteRT file that multiply or add in float32: kinds, with numbers.

    Args:
        data: The file.
    """
    interpreter = tf.lite.Interpreter(
        model_content=data,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    kinds = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    found: dict[str, int] = {}
    for each in interpreter._get_ops_details():
        results = [kinds.get(index) for index in each["outputs"]]
        if each["op_name"] not in ("QUANTIZE", "DEQUANTIZE") and np.float32 in results:
            found[each["op_name"]] = found.get(each["op_name"], 0) + 1
    return [f"{count} {name}" if count > 1 else name for name, count in found.items()]


class _Rewriting:
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
        fakes = [node for node in graph.node if node.op in (_FAKE, _PER_CHANNEL) and not self._is_known(node.input[0])]
        self.bits = _WIDE_BITS if any(node.attr["num_bits"].i > _BITS for node in fakes) else _BITS
        """Of activations."""

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

    def _rule(self, node: Any) -> _Rule | None:
        """What stands for an operation, as a function of its inputs; None for itself."""
        if node.op in (_FAKE, _PER_CHANNEL):
            if self._constant(node.input[0]) is not None:
                return self._weights(node)
            return self._activations(node) if node.attr["num_bits"].i != _BITS or self.bits != _BITS else None
        if node.op == "AvgPool":
            return self._average(node)
        matrix = self._node(node.input[1]) if node.op == "MatMul" else None
        if matrix is not None and matrix.op == _PER_CHANNEL and self._constant(matrix.input[0]) is not None:
            plain = not node.attr["transpose_a"].b and not node.attr["transpose_b"].b
            return self._product(matrix) if plain else None
        if self.bits == _BITS or self._is_known(node.name) or "T" not in node.attr:
            return None
        return self._wide(node) if node.attr["T"].type == tf.float32.as_datatype_enum else None

    def _wide(self, node: Any) -> _Rule | None:
        """What stands for operations that the converter knows in 8 bits alone, or on one grid."""
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
        """What gives a tensor, past what passes it on."""
        node = self.nodes[name.lstrip("^").partition(":")[0]]
        return self._node(node.input[0]) if node.op in _PASSING else node

    def _is_known(self, name: str) -> bool:
        begin = name.lstrip("^").partition(":")[0]
        if begin not in self.known:
            node = self.nodes[begin]
            self.known[begin] = node.op == "Const" or (bool(node.input) and all(map(self._is_known, node.input)))
        return self.known[begin]

    def _constant(self, name: str) -> np.ndarray | None:
        """What a tensor holds whatever the inputs are; None if it depends on them."""
        if not self._is_known(name):
            return None
        return np.asarray(self.function.prune([], self._tensor(name))())

    def _range(self, node: Any, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lowest and highest value, and step, of a quantizer that becomes one of ``most`` bits."""
        low, high = (np.asarray(self._constant(name), np.float32) for name in node.input[1:3])
        bits = node.attr["num_bits"].i
        step = (high - low) / np.float32(2**bits - 1)
        advice = "its runtime computes no others; write a .keras file or a SavedModel, or prepare with 8 bits"
        if most == _WIDE_BITS:
            if np.rint(np.maximum(-low / step - 1, high / step)).max() >= 2 ** (most - 1):
                rule = "of 15 bits without levels below zero, or of 16 around it, where any has more than 8"
                raise invalid("export", f"quantizer {node.name!r}", rule, bits, advice)
        elif bits > most or (bits < most and not np.all(np.frexp(step)[0] == 0.5)):
            rule = f"of {_BITS} bits, or of fewer with powers of two for steps, in a .tflite file"
            raise invalid("export", f"quantizer {node.name!r}", rule, bits, advice)
        return low, high, step

    def _widened(self, node: Any, bits: int = _BITS) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the grid of so many bits that has the levels of a quantizer, and zero where it has it."""
        low, high, step = self._range(node, bits)
        if node.attr["num_bits"].i == bits:
            return low, high
        lowest = np.where((low < 0) | (bits == _WIDE_BITS), -(2 ** (bits - 1)), 0).astype(np.float32)
        return lowest * step, (lowest + np.float32(2**bits - 1)) * step

    def _quantized(self, node: Any) -> np.ndarray:
        """The values of weights on their grid."""
        low, high, _ = self._range(node, _BITS)
        options = {"num_bits": node.attr["num_bits"].i, "narrow_range": node.attr["narrow_range"].b}
        return np.asarray(_function_of(node)(self._constant(node.input[0]), low, high, **options))

    def _weights(self, node: Any) -> _Rule:
        values, (low, high) = self._quantized(node), self._widened(node)
        self.centred &= bool(np.allclose(low * (2 ** (_BITS - 1) - 1), -high * 2 ** (_BITS - 1)))
        return lambda given: _function_of(node)(tf.constant(values), low, high, _BITS)

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
        if len(set(strides)) > 1:  # which depthwise convolutions do not know
            return None
        part = np.float32(1 / np.prod(window))
        kernel = np.full((*window, shape[-1], 1), part)
        ends = -(part * 2 ** (_BITS - 1)), part * (2 ** (_BITS - 1) - 1)

        def average(given: Sequence[tf.Tensor]) -> tf.Tensor:
            quantized = tf.quantization.fake_quant_with_min_max_vars(tf.constant(kernel), *ends, _BITS)
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
            kernel = _function_of(matrix)(tf.constant(values), low, high, _BITS)
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
