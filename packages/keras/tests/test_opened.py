"""Opened models stay what they were to their users: class, methods, attributes, training, copies."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_layers import built, with_arguments
from keras_networks import IMAGES, ROWS, outputs
from numpy.testing import assert_allclose
from trainable_quantizers_keras.layers.opened import KerasOpenedModel

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe.preset("power_of_two_8bit")


class Distiller(keras.Model):
    """Trains a student with a teacher."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.distance = keras.metrics.Mean(name="distance")

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            distance = tf.reduce_mean((self.student(x, training=True) - self.teacher(x)) ** 2)
        gradients = tape.gradient(distance, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables, strict=True))
        self.distance.update_state(distance)
        return {"distance": self.distance.result()}


def test_a_train_step_of_ones_own_trains_the_quantized_student():
    student = keras.Sequential([keras.Input((24,)), L.Dense(8, "relu"), L.Dense(4)])
    teacher = keras.Sequential([keras.Input((24,)), L.Dense(32, "relu"), L.Dense(4)])
    model = Distiller(student, teacher)
    model(ROWS)
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert isinstance(prepared, Distiller)
    assert prepared.student is not student
    prepared.compile(keras.optimizers.Adam(1e-2))
    history = prepared.fit(ROWS, ROWS[:, :4], epochs=30, verbose=0).history["distance"]
    assert history[-1] < history[0] / 2
    assert_allclose(outputs(tq.convert(prepared), ROWS)[0], outputs(prepared, ROWS)[0], rtol=0, atol=0)
    assert np.abs(outputs(prepared.student, ROWS)[0] - outputs(prepared, ROWS)[0]).max() < 0.2  # of float inputs


class Encoding(keras.Model):
    """Two models, a method that uses one, and an argument that only training gives."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(6)])
        self.decoder = keras.Sequential([keras.Input((6,)), L.Dense(5)])
        self.noise = L.GaussianNoise(0.1)

    def call(self, x, training=None):
        return self.decoder(self.noise(self.encoder(x), training=training))

    def code(self, x):
        return self.encoder(x)


def test_methods_and_attributes_of_an_opened_model_are_those_of_its_class():
    model = Encoding()
    model(IMAGES)
    prepared = tq.prepare(model, RECIPE, [IMAGES], verbose=False)
    assert tq.summary(prepared).coverage == 1
    assert np.abs(np.asarray(prepared.code(IMAGES)) - np.asarray(model.code(IMAGES))).max() < 0.2
    noisy, quiet = prepared(IMAGES, training=True), prepared(IMAGES)
    assert np.abs(np.asarray(noisy) - np.asarray(quiet)).max() > 0


def test_calling_an_opened_model_in_another_way_is_an_error_that_names_the_way():
    model, inputs = with_arguments()
    prepared = tq.prepare(model, RECIPE, [tuple(inputs)], verbose=False)
    (layer,) = [layer for layer in prepared.layers if isinstance(layer, KerasOpenedModel)]
    with pytest.raises(tq.QuantizerError, match=r"runs the graph of that call"):
        layer(ROWS, context=ROWS, scale=3.0)


class Tempered(keras.Model):
    """Reads an attribute, has another, and a head."""

    def __init__(self):
        super().__init__()
        self.temperature, self.epoch = 2.0, 0
        self.body, self.head = L.Dense(8), L.Dense(4)

    def call(self, x):
        return self.head(self.body(x)) / self.temperature


def test_attributes_that_the_recorded_call_read_are_constants_of_the_graph():
    prepared = tq.prepare(built(Tempered()), RECIPE, [ROWS], verbose=False)
    for each in (prepared, tq.convert(prepared)):
        each.epoch += 1
        each.temperature = 2.0
        with pytest.raises(tq.QuantizerError, match=r"Tempered: temperature must be .* 2.0, got 3.0; set it before"):
            each.temperature = 3.0
        with pytest.raises(tq.QuantizerError, match="Tempered: head must be as prepare recorded the call"):
            each.head = L.Dense(2)


def test_an_opened_model_is_copied_with_its_class_and_pickled_as_a_graph():
    prepared = tq.prepare(built(Tempered()), RECIPE, [ROWS], verbose=False)
    expected = outputs(prepared, ROWS)[0]
    again, graph = copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))
    assert isinstance(again, Tempered)
    for each in (again, graph):
        assert (outputs(each, ROWS)[0] == expected).all()
        each.set_weights([weight * 0 for weight in each.get_weights()])
    assert (outputs(prepared, ROWS)[0] == expected).all(), "they share nothing"
