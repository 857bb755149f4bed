"""Benchmarks one quantization in TensorFlow, forward and backward, against relu and TensorFlow's own kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import trainable_quantizers_keras as tq
from timing import Result, compare
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_keras.kernels.fake_quantize import fake_quantize

Case = Callable[[tf.Tensor], tf.Tensor]


def autodiff_lsq(x: tf.Tensor, threshold: tf.Tensor, factor: float) -> tf.Tensor:
    """LSQ left to the gradient tape."""
    step = threshold / 128
    step = tf.stop_gradient(step - step * factor) + step * factor
    v = tf.clip_by_value(x / step, -128.0, 127.0)
    return (tf.stop_gradient(tf.round(v) - v) + v) * step


def cases(axis: int | None, channels: int) -> tuple[dict[str, Case], list[Any]]:
    """The cases by name, the baseline first; and the variables that learn."""
    shape = () if axis is None else (channels,)
    low, high = (tf.Variable(tf.fill(shape, end)) for end in (-2.0, 2 * 127 / 128))
    threshold = tf.Variable(tf.fill(shape, 2.0))
    grid = Grid(8, True)
    if axis is None:
        kernel = tf.quantization.fake_quant_with_min_max_vars
        config: Any = tq.TrainableQuantizerActivationConfig(
            tq.QuantizationMethod.POWER_OF_TWO, 8, {tq.THRESHOLD: 2.0, tq.SIGNED: True}, True, tq.MIN_THRESHOLD
        )
        quantizer: Any = tq.LSQSymmetricActivationTrainableQuantizer(config)
    else:
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel
        config = tq.TrainableQuantizerWeightsConfig(
            tq.QuantizationMethod.POWER_OF_TWO, 8, {tq.THRESHOLD: 2.0}, True, -1, True, tq.MIN_THRESHOLD
        )
        quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(config)
    layer = tf.keras.layers.Layer()
    quantizer.initialize_quantization((1, 1, channels), "x", layer)
    variables = [low, high, threshold, *layer.trainable_variables]
    return {
        "relu": tf.nn.relu,
        "operation, LSQ": lambda x: fake_quantize(x, low, high, grid, axis, True, 0.01),
        "operation, STE": lambda x: fake_quantize(x, low, high, grid, axis, False),
        "quantizer, LSQ power of two": quantizer,
        "autodiff LSQ": lambda x: autodiff_lsq(x, threshold, 0.01),
        "TensorFlow kernel": lambda x: kernel(x, low, high, 8),
    }, [
        getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable
        for variable in variables
    ]


def time_cases(x: tf.Tensor, axis: int | None, xla: bool, seconds: float) -> Result:
    """Forward and backward of each in a ``tf.function``."""
    g = tf.random.normal(x.shape)
    functions, variables = cases(axis, x.shape[-1])

    def step(case: Case) -> Callable[[], None]:
        @tf.function(jit_compile=xla)
        def graph(x: tf.Tensor, g: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = case(x)
            gradients = tape.gradient(y, [x, *variables], output_gradients=g)
            return [y, *(gradient for gradient in gradients if gradient is not None)]

        def run() -> None:
            graph(x, g)[-1].numpy()

        return run

    return compare({name: step(case) for name, case in functions.items()}, seconds)


def run(threads: int, quick: bool) -> dict[str, Result]:
    """Run every benchmark of this group; returns its tables."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    seconds = 0.5 if quick else 4.0
    results = {}
    for mode, xla in (("tf.function", False), ("XLA", True)):
        for exponent in range(3, 6 if quick else 8):
            x = tf.random.normal([10**exponent])
            results[f"{mode}, per tensor, {10**exponent:.0e} elements"] = time_cases(x, None, xla, seconds)
        activations = tf.random.normal([64, 100, 10 if quick else 1000])
        results[f"{mode}, per tensor, 6.4 M activations"] = time_cases(activations, None, xla, seconds)
        weights = tf.random.normal([3, 3, 256, 256], stddev=0.1)
        results[f"{mode}, per channel, weights 3x3x256x256"] = time_cases(weights, 3, xla, seconds)
    return results
