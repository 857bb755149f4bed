"""A layer that comes into a model after ``prepare`` is not deployed in float without a word."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import ROWS

keras = tf.keras
L = keras.layers
TOLD = r"layer 'new' must be one of those that prepare was given, got 'Dense'; put it into the float model and prepare"


def prepared():
    layers = [L.Dense(4, activation="relu", name="hidden"), L.Dense(2, name="head")]
    recipe = tq.Recipe({"num_bits": 4}, {"num_bits": 8})
    return tq.prepare(keras.Sequential([keras.Input((24,)), *layers]), recipe, [ROWS], verbose=False)


def with_new_head(model):
    return keras.Model(model.inputs, L.Dense(3, name="new")(model.get_layer("hidden_quantized").output))


def exchanged_in_sequence():
    model = prepared()
    model.pop()
    model.pop()
    model.add(L.Dense(3, name="new"))
    return model


class Asks(keras.Model):
    """Its call asks for values, so that it stays Python."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = L.Dense(4, activation="relu"), L.Dense(2)

    def call(self, inputs):
        return self.head(self.hidden(inputs)) if float(tf.reduce_max(inputs)) < 1e9 else inputs


def exchanged_attribute():
    network = Asks()
    network(ROWS)
    model = tq.prepare(network, tq.Recipe({"num_bits": 4}, {"num_bits": 8}), [ROWS], verbose=False)
    model.head = L.Dense(3, name="new")
    model(ROWS)
    return model


def around_prepared():
    rows = keras.Input((24,))
    return keras.Model(rows, L.Dense(3, name="new")(prepared()(rows)))


EXCHANGED = [lambda: with_new_head(prepared()), exchanged_in_sequence, exchanged_attribute, around_prepared]


@pytest.mark.parametrize("exchanged", EXCHANGED)
def test_a_layer_that_was_put_in_later_is_not_converted(exchanged):
    with pytest.raises(tq.QuantizerError, match=f"convert: {TOLD}"):
        tq.convert(exchanged())


def test_the_summary_does_not_speak_of_a_layer_that_is_gone():
    with pytest.raises(tq.QuantizerError, match=f"summary: {TOLD}"):
        tq.summary(exchanged_in_sequence())


def test_a_file_of_a_prepared_model_is_as_the_model(tmp_path):
    prepared().save(tmp_path / "model.keras")
    loaded = tq.keras_load_quantized_model(tmp_path / "model.keras")
    tq.convert(loaded)
    with pytest.raises(tq.QuantizerError, match=f"convert: {TOLD}"):
        tq.convert(with_new_head(loaded))


def test_a_part_of_a_prepared_model_is_converted():
    model = prepared()
    part = keras.Model(model.inputs, model.get_layer("hidden_quantized").output)
    np.testing.assert_array_equal(tq.convert(part)(ROWS), part(ROWS))
