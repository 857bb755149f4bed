"""Takes a Keras network through all steps: prepare, train a step, convert, verify and export."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from keras_zoo import Network, batch_for, networks
from trainable_quantizers_core.graph.summary import Summary
from trainable_quantizers_keras import Recipe, convert, export, prepare, summary, verify
from trainable_quantizers_keras.keras_version import keras

FILE = ".keras"

NOTES = """
What is not at 100 %:

- FNet: its Fourier transform takes no unknown sizes, so its layers are not opened.
"""

__all__ = ["FILE", "NOTES", "all_the_way", "networks"]


def all_the_way(network: Network, recipe: str) -> tuple[Summary, bool, bool, float]:
    """The summary, whether the converted model and the file are identical, and the seconds to prepare."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    build, inputs = network
    model = build()
    inputs = batch_for(model) if inputs is None else inputs
    start = time.perf_counter()
    prepared = prepare(model, Recipe.preset(recipe), [inputs], fold_batch_norm=True, verbose=False)
    seconds = time.perf_counter() - start
    _step(prepared, inputs)
    deployed = convert(prepared)
    identical = verify(prepared, deployed, [inputs]).identical
    with tempfile.TemporaryDirectory() as folder:
        exported = export(deployed, Path(folder) / "model.keras", inputs)
    return summary(prepared), identical, exported.identical, seconds


def _step(model: Any, inputs: Any) -> None:
    with tf.GradientTape() as tape:
        values = [tf.cast(value, tf.float32) for value in tf.nest.flatten(model(inputs, training=True))]
        loss = sum(tf.reduce_mean(value**2) for value in values)
    gradients = tape.gradient(loss, model.trainable_variables)
    pairs = zip(gradients, model.trainable_variables, strict=True)
    keras.optimizers.SGD(1e-4).apply_gradients([(one, two) for one, two in pairs if one is not None])
