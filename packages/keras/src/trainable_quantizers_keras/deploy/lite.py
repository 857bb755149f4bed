"""A converted model as a LiteRT file of integers (PyTorch has ONNX files instead).

The converter of TensorFlow makes integers of what stands between fake quantizers of 8 bits, or of 16 bits for
activations, at their ranges; ``lite_graph`` rewrites the graph of the model, so that it finds nothing else.
"""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.deploy.lite_graph import BITS, WIDE_BITS, Rewriting

_INT16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
_BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Among the inputs of operations."""


def lite_model(function: Any, folder: Path) -> tuple[bytes, list[str]]:
    """The LiteRT file of a concrete function with a dictionary of results, and whose weights it rounds.

    Args:
        function: Its fake quantizers of weights have at most 8 bits; those of fewer have powers of two for steps, as
            those of activations have. Where any of activations has more than 8, their levels fit 16 bits around zero.
        folder: For a SavedModel, from which converters of every TensorFlow take names.

    Raises:
        QuantizerError: a quantizer of more bits, or of fewer with another step.
    """
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    rewriting = Rewriting(frozen.graph.as_graph_def())
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
    rounded = rewriting.float_weights()
    if rewriting.bits == WIDE_BITS:
        return _of_16_bits(converter), rounded
    if rewriting.centred:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with suppress(Exception):  # it cannot convert everything to integers, or no interpreter takes the result
            data = bytes(converter.convert())
            tf.lite.Interpreter(model_content=data)
            return data, rounded
    converter.optimizations = []
    return bytes(converter.convert()), []


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
    except Exception as error:  # anything that the two raise
        rule = f"of operations that a .tflite file has in {WIDE_BITS} bits, where activations have more than {BITS}"
        said = re.search(r"'(tfl\.\w+)' op .*", str(error)) or re.search(r"(.*)", str(error).strip())
        advice = f"prepare with activations of {BITS} bits; TensorFlow says: {said and said.group()}"
        raise invalid("export", "model", rule, said and said.group(1), advice) from error
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
