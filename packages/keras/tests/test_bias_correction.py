"""Biases that make up for the mean error of quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trainable_quantizers_keras import (
    ActivationsScheme,
    QuantizerError,
    Recipe,
    WeightsScheme,
    convert,
    prepare,
    summary,
)
from trainable_quantizers_keras.keras_version import keras

WEIGHTS = WeightsScheme(num_bits=3, bias_correction=True)
ACTIVATIONS = ActivationsScheme(num_bits=8)
LAYERS = ("stem", "depthwise", "up", "twice", "head")


@pytest.fixture
def network() -> Any:
    """Each kind of layer with a bias, one that is called twice (one bias cannot serve two errors), and one without."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = given = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    x = layers.DepthwiseConv2D(3, activation="tanh", name="depthwise")(x)
    x = layers.Conv2DTranspose(6, 2, name="up")(x)
    x = layers.Conv2D(6, 1, use_bias=False, name="plain")(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(x)
    twice = layers.Dense(6, activation="relu", name="twice")
    return keras.Model(given, layers.Dense(4, name="head")(twice(twice(x))))


def batches(count: int = 3) -> list[np.ndarray]:
    return [*np.random.default_rng(1).random((count, 32, 10, 10, 3), np.float32)]


def means(model: Any, data: list[np.ndarray]) -> np.ndarray:
    return np.mean([model(batch, training=False).numpy().mean(0) for batch in data], axis=0)


def biases(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(model.get_layer(name).bias) for name in LAYERS}


@pytest.mark.parametrize("recipe", [Recipe(WEIGHTS), Recipe(WEIGHTS, ACTIVATIONS)], ids=["weights", "all"])
def test_the_mean_of_each_channel_comes_near_that_of_the_float_model(network, recipe):
    left = Recipe(WeightsScheme(num_bits=3), recipe.activations)
    expected = means(network, batches())
    corrected, before = (
        np.abs(means(prepare(network, each, batches(), verbose=False), batches()) - expected).mean()
        for each in (recipe, left)
    )
    assert corrected < 0.5 * before


def test_one_layer_takes_its_whole_error():
    network = keras.Sequential([keras.Input((10, 10, 3)), keras.layers.Conv2D(4, 3)])
    model = prepare(network, Recipe(WEIGHTS), batches(1), verbose=False)
    axes = (0, 1, 2)
    assert np.allclose(model(batches(1)[0]).numpy().mean(axes), network(batches(1)[0]).numpy().mean(axes), atol=1e-5)


def test_only_layers_with_a_bias_whose_scheme_asks_for_it_change(network):
    recipe = Recipe(WEIGHTS, ACTIVATIONS, rules=[{"name": "up", "weights": {"bias_correction": False}}])
    model = prepare(network, recipe, iter(batches()), verbose=False)
    before, after = biases(network), biases(model)
    changed = {name for name in LAYERS if not np.array_equal(before[name], after[name])}
    noted = {row.layer for row in summary(model).rows if "bias corrected" in row.reason}
    assert changed == noted == {"stem", "depthwise", "head"}
    x = batches()[0]
    assert np.array_equal(convert(model)(x).numpy(), model(x, training=False).numpy())


def test_without_data_there_is_nothing_to_measure(network):
    with pytest.raises(QuantizerError, match="calibration_data must be an iterable of batches"):
        prepare(network, Recipe(WEIGHTS), verbose=False)
