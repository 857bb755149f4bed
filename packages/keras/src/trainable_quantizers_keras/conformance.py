"""Adapters that run the conformance suite in Keras: eager, ``tf.function`` and XLA, on a GPU if there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.conformance.adapter import Run
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid

from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


class KerasAdapter:
    """Eager TensorFlow, ``tf.function`` or XLA, under whichever Keras is active."""

    base_class = BaseKerasTrainableQuantizer
    reference = True
    compiles_fast = True
    dense_axis = 1
    float_types = ("float32", "float16", "bfloat16", "float64")

    def __init__(self, mode: str = "eager", device: str = "CPU") -> None:
        keras_name = "keras3" if KERAS_3 else "keras2"
        self.name = f"{keras_name}{'' if mode == 'eager' else f' {mode}'}{'' if device == 'CPU' else f' on {device}'}"
        self.mode = mode
        self.device = device
        self.compiled = mode != "eager"
        self.exact = mode != "XLA" and device == "CPU"

    def active(self) -> AbstractContextManager[Any]:
        """Nothing to set up."""
        return nullcontext()

    def tensor(self, array: np.ndarray, dtype: str = "float32") -> tf.Tensor:
        """A tensor on the adapter's device."""
        with tf.device(self.device):
            return tf.cast(tf.constant(array), dtype) if dtype != "int32" else tf.constant(array, tf.int32)

    def weight(self, array: np.ndarray) -> Any:
        """A variable on the adapter's device."""
        with tf.device(self.device):
            return tf.Variable(array)

    def read(self, tensor: Any) -> np.ndarray:
        """Its values."""
        tensor = tf.convert_to_tensor(tensor)
        return (tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor).numpy()

    def dtype(self, tensor: Any) -> str:
        """Such as ``float32``."""
        return tf.as_dtype(tensor.dtype).name

    def build(self, quantizer: Any, tensor_shape: tuple[int, ...] | None) -> Any:
        """A layer that owns the quantizer's variables."""
        layer = keras.layers.Layer()
        with tf.device(self.device):
            quantizer.initialize_quantization(
                None if tensor_shape is None else tf.TensorShape(tensor_shape), "x", layer
            )
        layer.built = True
        return layer

    def assign(self, quantizer: Any, values: Mapping[str, np.ndarray]) -> None:
        """Write into the variables."""
        for name, value in values.items():
            quantizer.get_quantizer_variable(name).assign(value)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """With the framework's own compilers."""
        return function if self.mode == "eager" else tf.function(function, jit_compile=self.mode == "XLA")

    def run(self, quantizer: Any, x: np.ndarray, g: np.ndarray, training: bool = True, dtype: str = "float32") -> Run:
        """A gradient tape around the call; compiled as a whole."""
        names = list(quantizer.quantizer_parameters)
        variables = [getattr(v, "value", v) if KERAS_3 else v for v in map(quantizer.get_quantizer_variable, names)]

        def step(inputs: tf.Tensor, upstream: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = quantizer(inputs, training)
            gradients = tape.gradient(output, [inputs, *variables], tf.cast(upstream, output.dtype))
            return output, gradients

        with tf.device(self.device):
            output, (grad_x, *gradients) = self.compile(step)(self.tensor(x, dtype), self.tensor(g))
        values = {
            name: None if gradient is None else self.read(gradient)
            for name, gradient in zip(names, gradients, strict=True)
        }
        return Run(self.read(output), self.read(grad_x), values)

    def dense(self, quantizer: Any, weight: np.ndarray, bias: np.ndarray, grid: AccumulatorGrid) -> Any:
        """A wrapped ``Dense``."""
        layer = keras.layers.Dense(weight.shape[1])
        layer.build((None, weight.shape[0]))
        layer.set_weights([weight, bias])
        wrapper = KerasTrainableQuantizationWrapper(layer, {"kernel": quantizer}, accumulator=grid)
        with tf.device(self.device):
            wrapper.build((None, weight.shape[0]))
        return wrapper

    def run_dense(self, layer: Any, x: np.ndarray, g: np.ndarray, training: bool) -> Run:
        """A gradient tape, without a compiler."""
        variables = [
            getattr(each, "value", each) if KERAS_3 else each for each in (layer.layer.kernel, layer.layer.bias)
        ]
        with tf.device(self.device), tf.GradientTape() as tape:
            inputs = self.tensor(x)
            tape.watch(inputs)
            output = layer(inputs, training=training)
        grad_x, *gradients = tape.gradient(output, [inputs, *variables], self.tensor(g))
        named: dict[str, np.ndarray | None] = dict(zip(("weight", "bias"), map(self.read, gradients), strict=True))
        return Run(self.read(output), self.read(grad_x), named)

    def deployed_dense(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """Of the wrapper of mct-quantizers, or of its native one for Keras 3."""
        return self.read(layer.convert_to_inferable_quantizers()(self.tensor(x)))

    def save_and_load(self, quantizer: Any, layer: Any, fresh: Any, tensor_shape: tuple[int, ...] | None) -> Any:
        """Through an npz file of the layer's weights."""
        restored = self.build(fresh, tensor_shape)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.npz"
            np.savez(path, *layer.get_weights())
            with np.load(path) as stored:
                restored.set_weights([stored[name] for name in stored.files])
        return restored


def adapters() -> list[KerasAdapter]:
    """The ways of running Keras on this machine, the reference first."""
    found = [KerasAdapter(), KerasAdapter("tf.function"), KerasAdapter("XLA")]
    return [*found, KerasAdapter(device="GPU")] if tf.config.list_physical_devices("GPU") else found
