"""Benchmarks whole training steps in Keras, float against quantized: a MobileNet and a small transformer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from timing import Result, compare
from training_cases import BIASES, STAGES

layers = keras.layers
METHOD = tq.QuantizationMethod.POWER_OF_TWO


class Build:
    """Layers as they are, or with 4-bit weights and 8-bit outputs."""

    def __init__(self, quantized: bool) -> None:
        self.quantized = quantized

    def weights(self, layer: Any, axis: int = -1) -> Any:
        """The layer."""
        if not self.quantized:
            return layer
        config = tq.TrainableQuantizerWeightsConfig(METHOD, 4, {tq.THRESHOLD: 0.25}, True, axis, True, tq.MIN_THRESHOLD)
        name = "depthwise_kernel" if isinstance(layer, layers.DepthwiseConv2D) and not KERAS_3 else "kernel"
        return tq.KerasTrainableQuantizationWrapper(layer, {name: tq.LSQSymmetricWeightsTrainableQuantizer(config)})

    def output(self, x: Any, signed: bool = True) -> Any:
        """The tensor."""
        if not self.quantized:
            return x
        config = tq.TrainableQuantizerActivationConfig(
            METHOD, 8, {tq.THRESHOLD: 8.0, tq.SIGNED: signed}, True, tq.MIN_THRESHOLD
        )
        return tq.KerasActivationQuantizationHolder(tq.LSQSymmetricActivationTrainableQuantizer(config))(x)


KERAS_3 = keras.__version__.startswith("3")


def mobilenet(build: Build) -> keras.Model:
    """MobileNet v1 of full width, on images of 96x96."""
    inputs = keras.Input((96, 96, 3))

    def normalized(layer: Any, x: Any) -> Any:
        return build.output(layers.ReLU(6.0)(layers.BatchNormalization()(layer(x))), signed=False)

    x = build.output(inputs)
    x = normalized(build.weights(layers.Conv2D(32, 3, 2, "same", use_bias=False)), x)
    for out, stride in STAGES:
        x = normalized(build.weights(layers.DepthwiseConv2D(3, stride, "same", use_bias=False), 2), x)
        x = normalized(build.weights(layers.Conv2D(out, 1, use_bias=False)), x)
    x = build.output(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, build.output(build.weights(layers.Dense(10))(x)))


def perceptrons(build: Build) -> keras.Model:
    """Four residual perceptrons of width 192 on 64 tokens: a transformer without its attention."""
    inputs = keras.Input((64, 48))
    x = build.output(build.weights(layers.Dense(192))(inputs))
    for _ in range(4):
        y = build.output(layers.LayerNormalization()(x))
        y = build.output(layers.Activation("gelu")(build.weights(layers.Dense(768))(y)))
        x = build.output(layers.Add()([x, build.weights(layers.Dense(192))(y)]))
    return keras.Model(inputs, build.output(build.weights(layers.Dense(10))(layers.Flatten()(x))))


NETWORKS: dict[str, tuple[Callable[[Build], keras.Model], tuple[int, ...]]] = {
    "MobileNet-like": (mobilenet, (16, 96, 96, 3)),
    "transformer-like": (perceptrons, (16, 64, 48)),
}


def model(name: str, quantized: bool) -> tuple[keras.Model, np.ndarray]:
    """A network and a batch."""
    build, shape = NETWORKS[name]
    keras.utils.set_random_seed(0)
    return build(Build(quantized)), np.random.default_rng(0).normal(size=shape).astype("float32")


def training_step(model: keras.Model, x: np.ndarray, jit_compile: bool) -> Callable[[], None]:
    """As ``model.fit`` takes it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, 0.9), loss, jit_compile=jit_compile)
    target = np.arange(len(x)) % 10

    def step() -> None:
        model.train_on_batch(x, target)

    return step


def run_steps(name: str, kind: str) -> None:
    """Run three steps of the float or the quantized network, or none, to measure the peak memory of a process."""
    network, x = model(name, kind == "quantized")
    step = training_step(network, x, jit_compile=False)
    for _ in range(0 if kind == "none" else 3):
        step()


def depth(count: int) -> dict[str, float]:
    """Seconds to build and to convert a quantized network with ``count`` dense layers."""
    build = Build(quantized=True)
    start = time.perf_counter()
    x = inputs = keras.Input((16,))
    for _ in range(count):
        x = build.output(layers.ReLU()(build.weights(layers.Dense(16))(x)))
    network = keras.Model(inputs, x)
    middle = time.perf_counter()
    tq.convert(network)
    return {"build": round(middle - start, 3), "convert": round(time.perf_counter() - middle, 3)}


def with_biases() -> dict[str, Callable[[], None]]:
    """Steps of a MobileNet with folded norms: the cost of its bias grid, and of a limit on its sums."""
    network = keras.applications.MobileNet((96, 96, 3), weights=None, classes=10, classifier_activation=None)
    x, steps = np.random.default_rng(0).normal(size=(16, 96, 96, 3)).astype("float32"), {}
    for title, options in BIASES.items():
        recipe = tq.Recipe(tq.WeightsScheme(num_bits=4, **options), tq.ActivationsScheme(num_bits=8))
        model = tq.prepare(network, recipe, [x], fold_batch_norm=True, verbose=False)
        steps[title] = training_step(model, x, jit_compile=False)
    return steps


def run(threads: int, quick: bool) -> dict[str, Result]:
    """Run every benchmark of this group; returns its tables."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    results = {}
    for name in NETWORKS:
        for mode in ("tf.function",) if quick else ("tf.function", "XLA"):
            cases = {
                title: training_step(*model(name, quantized), mode == "XLA")
                for title, quantized in (("float", False), ("W4A8 LSQ", True))
            }
            results[f"{name} training step, {mode}"] = compare(cases, 1.0 if quick else 20.0)
    results["MobileNet training step, biases, tf.function"] = compare(with_biases(), 1.0 if quick else 20.0)
    return results
