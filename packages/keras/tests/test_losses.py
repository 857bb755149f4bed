"""Losses that layers, weights and activities add stay what they are."""

import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_layers import applied, built
from keras_networks import ROWS, Block, outputs
from numpy.testing import assert_allclose

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe.preset("power_of_two_8bit")


class Losing(L.Layer):
    """Adds a loss in its call."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        y = self.dense(x)
        self.add_loss(tf.reduce_mean(y**2))
        return y


class LosingModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        y = self.dense(x)
        self.add_loss(tf.reduce_mean(y**2))
        return y


class Regularized(L.Layer):
    """Its own code reads a weight that has a regularizer and a constraint."""

    def __init__(self):
        super().__init__()
        norm = keras.constraints.MaxNorm(0.5)
        self.kernel = self.add_weight(name="kernel", shape=(24, 4), regularizer="l2", constraint=norm)
        self.bias = self.add_weight(name="bias", shape=(4,), initializer="ones", regularizer="l1")

    def call(self, x):
        return tf.matmul(x, self.kernel) + self.bias


class RegularizedModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)
        self.activity_regularizer = keras.regularizers.L2(0.01)

    def call(self, x):
        return self.dense(x)


def of(*layers):
    return keras.Sequential([keras.Input((24,)), *layers])


def with_activity(layer):
    layer.activity_regularizer = keras.regularizers.L2(0.01)
    return layer


LOSSES = {
    "a layer adds it": lambda: applied(Losing(), [ROWS]),
    "a model adds it": lambda: built(LosingModel()),
    "of weights that functions read": lambda: applied(Regularized(), [ROWS]),
    "of the activity of a layer": lambda: applied(with_activity(Block(8)), [ROWS]),
    "of the activity of a model": lambda: built(RegularizedModel()),
    "of the activity of two in one": lambda: of(L.Dense(4, "tanh", activity_regularizer="l2")),
    "of a separable convolution": lambda: of(
        L.Reshape((6, 4)), L.SeparableConv1D(4, 3, activation="tanh", activity_regularizer="l2")
    ),
    "of a dense layer": lambda: of(L.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_layers_stay_what_they_are(name):
    model = LOSSES[name]()
    wide = {"num_bits": 16, "method": "symmetric", "calibration": "min_max"}
    prepared = tq.prepare(model, tq.Recipe(wide, wide), [ROWS], verbose=False)
    found = []
    for each in (model, prepared):
        each(ROWS)
        found.append(float(sum(each.losses)))
    assert found[0] > 0
    assert_allclose(found[1], found[0], rtol=1e-3)


def test_a_file_keeps_the_activity_regularizer_and_a_converted_graph_needs_none(tmp_path):
    prepared = tq.prepare(LOSSES["of the activity of two in one"](), RECIPE, [ROWS], verbose=False)
    prepared.save(tmp_path / "model.keras")
    again = tq.keras_load_quantized_model(tmp_path / "model.keras")
    deployed = tq.convert(prepared)
    for each in (prepared, again, deployed):
        each(ROWS)
    assert float(sum(again.losses)) == float(sum(prepared.losses)) > 0
    assert not deployed.losses
    assert (outputs(deployed, ROWS)[0] == outputs(prepared, ROWS)[0]).all()
