"""A copy that computes something else than the model does not leave prepare."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq

keras = tf.keras
RECIPE = tq.Recipe.preset("power_of_two_8bit")
ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")


class AsksForTheClass(keras.Model):
    """Computes something else once its layer is wrapped; reads numbers, so that it does not become a graph."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(2)

    def call(self, x):
        x = tf.constant(self.first(x).numpy())
        return self.second(x if type(self.second) is keras.layers.Dense else 2 * x)


def built():
    model = AsksForTheClass()
    model(ROWS)
    return model


def test_a_copy_that_computes_something_else_is_refused():
    with pytest.raises(
        tq.QuantizerError, match=r"quantizers bypassed, got 'output off by .*; it begins in second, off by"
    ):
        tq.prepare(built(), RECIPE, [ROWS], verbose=False)


def test_the_check_can_be_left_out():
    assert tq.prepare(built(), RECIPE, [ROWS], check=False, verbose=False)(ROWS).shape == (4, 2)


def test_random_numbers_are_no_difference():
    given = keras.Input((6,))
    noisy = keras.layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), output_shape=(6,))(given)
    network = keras.Model(given, keras.layers.Dense(2)(noisy))
    assert tq.prepare(network, RECIPE, [ROWS], verbose=False)(ROWS).shape == (4, 2)
