"""Whole training steps in Keras, float against quantized: a MobileNet and a transformer, in small."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from timing import Result, compare

layers = keras.layers


def mobilenet() -> keras.Model:
    """Eight separable convolutions on images of 96x96."""
    x = inputs = keras.Input((96, 96, 3))

    def normalized(layer: Any, x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(layer(x)))

    x = normalized(layers.Conv2D(16, 3, 2, "same", use_bias=False), x)
    for out, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)):
        x = normalized(layers.DepthwiseConv2D(3, stride, "same", use_bias=False), x)
        x = normalized(layers.Conv2D(out, 1, use_bias=False), x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer() -> keras.Model:
    """Four blocks of width 192 on 64 tokens."""
    inputs = keras.Input((64, 48))
    x = layers.Dense(192)(inputs)
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 48)(y, y)])
        y = layers.Dense(768, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(192)(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


NETWORKS: dict[str, tuple[Callable[[], keras.Model], tuple[int, ...]]] = {
    "MobileNet-like": (mobilenet, (16, 96, 96, 3)),
    "transformer-like": (transformer, (16, 64, 48)),
}
RECIPE = tq.Recipe(
    weights=tq.WeightsScheme(num_bits=4), activations=tq.ActivationsScheme(num_bits=8), name="W4A8 LSQ power of two"
)


def models(name: str) -> tuple[keras.Model, keras.Model, np.ndarray]:
    """The float network, the quantized one, and a batch."""
    build, shape = NETWORKS[name]
    keras.utils.set_random_seed(0)
    network, x = build(), np.random.default_rng(0).normal(size=shape).astype("float32")
    return network, tq.prepare(network, RECIPE, [x], verbose=False), x


def training_step(model: keras.Model, x: np.ndarray, jit_compile: bool) -> Callable[[], None]:
    """As ``model.fit`` takes it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, 0.9), loss, jit_compile=jit_compile)
    target = np.arange(len(x)) % 10

    def step() -> None:
        model.train_on_batch(x, target)

    return step


def run_steps(name: str, kind: str) -> None:
    """Three steps of the float or the quantized network, or none: what a process needs at its peak."""
    build, shape = NETWORKS[name]
    network, x = build(), np.random.default_rng(0).normal(size=shape).astype("float32")
    if kind == "quantized":
        network = tq.prepare(network, RECIPE, [x[:1]], verbose=False)
    step = training_step(network, x, jit_compile=False)
    for _ in range(0 if kind == "none" else 3):
        step()


def depth(count: int) -> dict[str, float]:
    """Seconds to prepare and to convert a network of so many dense layers."""
    x = inputs = keras.Input((16,))
    for _ in range(count):
        x = layers.ReLU()(layers.Dense(16)(x))
    network = keras.Model(inputs, x)
    start = time.perf_counter()
    prepared = tq.prepare(network, RECIPE, [np.ones((8, 16), "float32")], verbose=False)
    middle = time.perf_counter()
    tq.convert(prepared)
    return {"prepare": round(middle - start, 3), "convert": round(time.perf_counter() - middle, 3)}


def run(threads: int, quick: bool) -> dict[str, Result]:
    """Every table of this page."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    results = {}
    for name in NETWORKS:
        for mode in ("tf.function",) if quick else ("tf.function", "XLA"):
            float_model, quantized, x = models(name)
            cases = {
                "float": training_step(float_model, x, mode == "XLA"),
                "W4A8 LSQ": training_step(quantized, x, mode == "XLA"),
            }
            results[f"{name} training step, {mode}"] = compare(cases, 1.0 if quick else 20.0)
    return results
