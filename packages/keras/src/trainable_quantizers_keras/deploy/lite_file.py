"""LiteRT files: running them, and comparing their operations with the quantizers of the network."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.integer.program import QUANTIZING, Program
from trainable_quantizers_core.integer.step import Step

from trainable_quantizers_keras.graph.watch import named_layers, replaced_calls
from trainable_quantizers_keras.layers.holder import HOLDER_SUFFIX

_RESOLVERS = tf.lite.experimental.OpResolverType
KERNELS = {
    "xnnpack": _RESOLVERS.AUTO,
    "builtin": _RESOLVERS.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": _RESOLVERS.BUILTIN_REF,
}
_INTEGERS = {
    flatbuffer_utils.schema_fb.TensorType.INT8: np.int8,
    flatbuffer_utils.schema_fb.TensorType.INT16: np.int16,
}
_SAME_STEP = 1e-6  # relative: both are rounded to float32


class LiteFile:
    """A ``.tflite`` file with the kernels that run it, to ``verify`` it operation by operation.

    Args:
        path: Of the file.
        kernels: ``"xnnpack"``, the runtime's default on computers and phones; ``"builtin"``, its own without
            XNNPACK; or ``"reference"``, on which those for microcontrollers are based.

    Raises:
        QuantizerError: no such kernels, or another kind of file.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from trainable_quantizers_keras import Recipe, convert, export, prepare, verify
        >>> x = np.arange(8, dtype=np.float32).reshape(2, 4)
        >>> layers = [tf.keras.layers.Dense(2, "relu", kernel_initializer="ones")]
        >>> network = tf.keras.Sequential([tf.keras.Input((4,)), *layers])
        >>> deployed = convert(prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False))
        >>> with TemporaryDirectory() as folder:
        ...     _ = export(deployed, f"{folder}/model.tflite", x)
        ...     print(verify(deployed, LiteFile(f"{folder}/model.tflite", kernels="reference"), [x]))
        All 4 output values are identical. By itself, none of its 2 operations differs.
    """

    def __init__(self, path: str | os.PathLike[str], kernels: str = "xnnpack") -> None:
        if kernels not in KERNELS:
            rule = f"one of {', '.join(map(repr, KERNELS))}"
            raise invalid("LiteFile", "kernels", rule, kernels, nearest(kernels, KERNELS))
        self.path, self.kernels = Path(path), kernels
        try:
            data = self.path.read_bytes()
            self._plain = self._interpreter(data)
        except (OSError, ValueError) as error:
            advice = f"the runtime says: {str(error).partition(chr(10))[0]}"
            raise invalid("LiteFile", "path", "a .tflite file", str(path), advice) from error
        self._shown: Any = None

    def _interpreter(self, data: bytes) -> Any:
        return tf.lite.Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[self.kernels])

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """Run the file: returns an array, or a list of arrays in the order of their names.

        Args:
            inputs: Arrays by the names that the file has for its inputs.
        """
        run = self._plain.get_signature_runner("serving_default")
        given = run(**{name: np.asarray(value) for name, value in inputs.items()})
        names = sorted(given, key=lambda name: (int(re.sub(r"^output_(?=\d+$)|.*", "", name) or 0), name))
        results = [given[name] for name in names]
        return results if len(results) > 1 else results[0]

    def observed(self, inputs: Mapping[str, Any], program: Program) -> dict[str, list[np.ndarray | None]]:
        """The outputs of its operations at the quantizers of the network's program, as ``Program.observed`` takes them.

        A tensor of the file belongs to a quantizer if it has the same step and all of its levels, and is the last that
        is named like the quantizer, or like a layer between it and the quantizers before it. Quantizers without one
        have None.
        """
        if self._shown is None:
            model = flatbuffer_utils.read_model(self.path)
            self._tensors = _quantized_tensors(model)
            graph = model.subgraphs[0]
            graph.outputs = list(dict.fromkeys([*graph.outputs, *(each.index for each in self._tensors)]))
            self._places = {each.name.decode(): each.tensorIndex for each in model.signatureDefs[0].inputs}
            self._shown = self._interpreter(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
        arrays = {self._places[name]: np.asarray(value) for name, value in inputs.items()}
        for index, array in arrays.items():
            self._shown.resize_tensor_input(index, array.shape)
        self._shown.allocate_tensors()
        for index, array in arrays.items():
            self._shown.set_tensor(index, array)
        self._shown.invoke()
        samples = max(len(array) for array in arrays.values() if array.ndim)
        found: dict[str, list[np.ndarray | None]] = {}
        for step, tensor in _matched(program, self._tensors):
            numbers = None
            if tensor is not None:
                levels = self._shown.get_tensor(tensor.index).astype(np.int64) - tensor.zero
                shape = program.values[step.output].shape
                numbers = program.values[step.output].floats(levels.reshape(samples, *shape[1:]))
            found.setdefault(step.name, []).append(numbers)
        return found


class _Tensor:
    """A tensor of integers in a file."""

    def __init__(self, index: int, tensor: Any) -> None:
        self.index = index
        self.layers = [each.removeprefix("StatefulPartitionedCall/") for each in tensor.name.decode().split(";")]
        self.step, self.zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
        self.size = int(np.prod([max(size, 1) for size in tensor.shape]))
        limits = np.iinfo(_INTEGERS[tensor.type])
        self.lowest, self.highest = limits.min - self.zero, limits.max - self.zero

    def of(self, layers: set[str]) -> bool:
        """Whether it is called as one of some layers."""
        return any(each == layer or each.startswith(f"{layer}/") for each in self.layers for layer in layers)


def _quantized_tensors(model: Any) -> list[_Tensor]:
    """The integer results of a file's operations that have one step, in order of execution."""
    graph = model.subgraphs[0]
    made = [index for operator in graph.operators for index in operator.outputs]
    typed = [(index, graph.tensors[index]) for index in made if graph.tensors[index].type in _INTEGERS]
    return [_Tensor(index, each) for index, each in typed if np.size(each.quantization.scale) == 1]


def _matched(program: Program, tensors: Sequence[_Tensor]) -> Iterator[tuple[Step, _Tensor | None]]:
    """Each quantizer of a program with the tensor that holds the same."""
    made: dict[int | str, Step] = {step.output: step for step in program.steps}
    left = list(tensors)
    for step in program.steps:
        if step.operation not in QUANTIZING:
            continue
        value = program.values[step.output]
        layers = {_plain(name) for name in (step.name.removesuffix(HOLDER_SUFFIX), *_names(step, made))}
        fitting = [
            each
            for each in left
            if each.of(layers)
            and each.size == np.prod(value.shape)
            and each.lowest <= value.low <= value.high <= each.highest
            and abs(each.step / np.ldexp(value.scale, value.exponent) - 1) < _SAME_STEP
        ]
        if fitting:
            left.remove(fitting[-1])
        yield step, fitting[-1] if fitting else None


def _names(step: Step, made: Mapping[int | str, Step]) -> Iterator[str]:
    """The names of a quantizer, and of the operations between it and the quantizers before it."""
    yield step.name
    for each in step.inputs:
        before = made.get(each)
        if before is not None and before.operation not in QUANTIZING:
            yield from _names(before, made)


@contextmanager
def scoped(model: Any) -> Iterator[None]:
    """Operations of a graph are called as the layer in whose call they are made: Keras 3 changes these names there."""
    names = {id(layer): name for name, layer in named_layers(model).items()}

    def marked(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def in_scope(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(f"{_plain(names[id(layer)])}/"):
                return call(*args, **kwargs)

        return in_scope

    with replaced_calls(named_layers(model).values(), marked):
        yield


def _plain(name: str) -> str:
    """The name of a layer in a graph of TensorFlow."""
    return re.sub(r"[^\w./-]", "_", name)
