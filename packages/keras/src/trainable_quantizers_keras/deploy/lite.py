"""A converted model as a LiteRT file of 8-bit integers; PyTorch has ONNX files instead.

The converter of TensorFlow makes integers of what stands between fake quantizers of 8 bits, at their ranges. This
module rewrites the graph of the model, so that it finds nothing else:

- weights are constants on their grid already, behind a fake quantizer of 8 bits with the same step;
- narrower activations are clipped to their levels between two fake quantizers of 8 bits with the same step;
- products with matrices of a step for each channel are convolutions by 1, which the converter can write so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from trainable_quantizers_core.errors import invalid

_BITS = 8
_FAKE = "FakeQuantWithMinMaxVars"
_PER_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
_Rule = Callable[[Sequence[tf.Tensor]], tf.Tensor]
_PASSING = ("Identity", "ReadVariableOp", "StopGradient")


def lite_model(function: Any, folder: Path) -> bytes:
    """The LiteRT file of a concrete function with a dictionary of results.

    Args:
        function: Its fake quantizers have at most 8 bits; those of fewer have powers of two for steps.
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
    if rewriting.centred:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with suppress(Exception):  # it cannot make integers of all, or writes what no interpreter takes
            data = bytes(converter.convert())
            tf.lite.Interpreter(model_content=data)
            return data
    converter.optimizations = []
    return bytes(converter.convert())


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
            return self._activations(node) if node.attr["num_bits"].i != _BITS else None
        matrix = self._node(node.input[1]) if node.op == "MatMul" else None
        if matrix is not None and matrix.op == _PER_CHANNEL and self._constant(matrix.input[0]) is not None:
            plain = not node.attr["transpose_a"].b and not node.attr["transpose_b"].b
            return self._product(matrix) if plain else None
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
        tensor = self.function.graph.as_graph_element(name if ":" in name else f"{name}:0")
        return np.asarray(self.function.prune([], tensor)())

    def _range(self, node: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lowest and highest value, and step."""
        low, high = (np.asarray(self._constant(name), np.float32) for name in node.input[1:3])
        bits = node.attr["num_bits"].i
        step = (high - low) / np.float32(2**bits - 1)
        if bits > _BITS or (bits < _BITS and not np.all(np.frexp(step)[0] == 0.5)):
            rule = f"of {_BITS} bits, or of fewer with powers of two for steps, in a .tflite file"
            advice = "its runtime computes no others; write a .keras file or a SavedModel, or prepare with 8 bits"
            raise invalid("export", f"quantizer {node.name!r}", rule, bits, advice)
        return low, high, step

    def _widened(self, node: Any) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the grid of 8 bits that has the levels of a quantizer, and zero where it has it."""
        low, high, step = self._range(node)
        if node.attr["num_bits"].i == _BITS:
            return low, high
        lowest = np.where(low < 0, -(2 ** (_BITS - 1)), 0).astype(np.float32)
        return lowest * step, (lowest + np.float32(2**_BITS - 1)) * step

    def _quantized(self, node: Any) -> np.ndarray:
        """The values of weights on their grid."""
        low, high, _ = self._range(node)
        options = {"num_bits": node.attr["num_bits"].i, "narrow_range": node.attr["narrow_range"].b}
        return np.asarray(_function_of(node)(self._constant(node.input[0]), low, high, **options))

    def _weights(self, node: Any) -> _Rule:
        values, (low, high) = self._quantized(node), self._widened(node)
        self.centred &= bool(np.allclose(low * (2 ** (_BITS - 1) - 1), -high * 2 ** (_BITS - 1)))
        return lambda given: _function_of(node)(tf.constant(values), low, high, _BITS)

    def _activations(self, node: Any) -> _Rule:
        (lowest, highest, _), (low, high) = self._range(node), self._widened(node)

        def quantize(x: tf.Tensor) -> tf.Tensor:
            return _function_of(node)(x, low, high, _BITS)

        return lambda given: quantize(tf.clip_by_value(quantize(given[0]), lowest, highest))

    def _product(self, matrix: Any) -> _Rule:
        values, (low, high) = self._quantized(matrix)[None, None], self._widened(matrix)

        def multiply(given: Sequence[tf.Tensor]) -> tf.Tensor:
            kernel = _function_of(matrix)(tf.constant(values), low, high, _BITS)
            pixels = tf.reshape(given[0], [-1, 1, 1, values.shape[2]])
            return tf.squeeze(tf.nn.conv2d(pixels, kernel, 1, "VALID"), [1, 2])

        return multiply


def _function_of(node: Any) -> Callable[..., tf.Tensor]:
    if node.op == _PER_CHANNEL:
        return tf.quantization.fake_quant_with_min_max_vars_per_channel  # type: ignore[no-any-return]
    return tf.quantization.fake_quant_with_min_max_vars  # type: ignore[no-any-return]
