"""A network with a bias in every layer, trained some steps: for tests of exactness."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import keras

POWERS = "power_of_two"


@cache
def trained(
    bits: int = 8, rounding: str | None = None, methods: tuple[str, str] = (POWERS, POWERS), **options: Any
) -> Any:
    """Each kind of layer with a bias, norms that fold, a sum, and a layer that is called on two inputs."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = given = keras.Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x))
    x = branch = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Conv2D(16, 3, padding="same", name="wide", bias_initializer="random_normal")(x)
    x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.Conv2DTranspose(8, 2, activation="relu", name="up", bias_initializer="random_normal")(x)
    x = layers.GlobalAveragePooling2D()(x)
    twice = layers.Dense(8, activation="relu", name="twice", bias_initializer="random_normal")
    network = keras.Model(given, layers.Dense(10, name="head", bias_initializer="random_normal")(twice(twice(x))))
    data = np.random.default_rng(1).standard_normal((16, 12, 12, 3)).astype("float32")
    weights, activations = methods
    recipe = tq.Recipe(
        tq.WeightsScheme(num_bits=bits, method=weights, **options),
        tq.ActivationsScheme(num_bits=8, method=activations, rounding=rounding),
    )
    model = tq.prepare(network, recipe, [data], fold_batch_norm=True, verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-2), loss, run_eagerly=True)  # three steps: a graph costs more than it saves
    model.fit(data, np.arange(16) % 10, epochs=3, verbose=0)
    return model


IMAGES = np.random.default_rng(3).standard_normal((32, 12, 12, 3)).astype("float32")
