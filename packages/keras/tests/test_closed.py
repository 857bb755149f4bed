"""Models and layers that are not opened stay as they are, and it is said why."""

import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_layers import Around, Between, applied
from keras_networks import ROWS, outputs
from numpy.testing import assert_allclose
from trainable_quantizers_keras.graph.open import opened
from trainable_quantizers_keras.graph.symbolic import Recording, in_words
from trainable_quantizers_keras.layers.opened import KerasOpenedModel

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe.preset("power_of_two_8bit")


class Random(L.Layer):
    def call(self, x):
        return x + tf.random.normal((24,))


class OfAnother(L.Layer):
    def call(self, x):
        return x * OUTSIDE


class Deciding(L.Layer):
    def call(self, x):
        return x if x > 0 else -x


class Otherwise(L.Layer):
    def call(self, x, training=False):
        return tf.nn.relu(x) if training else x


class Counting(L.Layer):
    def call(self, x):
        return x, 3


OUTSIDE = tf.Variable(2.0)
CLOSED = {
    Random: "random numbers that do not come from its inputs",
    OfAnother: "variables that do not come from its inputs",
    Deciding: "its call does not take symbols",
    Otherwise: "it computes differently in training and in evaluation",
    Counting: "its result does not consist of tensors",
}


@pytest.mark.parametrize("cls", CLOSED, ids=lambda cls: cls.__name__)
def test_a_layer_whose_call_cannot_be_recorded_stays_and_it_is_said_why(cls):
    layer = cls(name="own")
    layer.build((None, 24))
    with pytest.raises(Exception) as caught:
        Recording(layer, (keras.Input((24,)),), {})
    assert CLOSED[cls] in in_words(caught.value)


def test_a_layer_that_is_called_in_two_ways_stays_and_it_is_said():
    x, context = keras.Input((24,)), keras.Input((24,))
    both = Between(name="both")
    model = keras.Model([x, context], both(x, context) + both(x, context, scale=2.0))
    prepared = tq.prepare(model, RECIPE, [(ROWS, ROWS)], verbose=False)
    rows = {row.layer: row for row in tq.summary(prepared).rows}
    assert "not opened: it is called in several ways" in rows["both"].reason
    assert prepared.get_layer("both") is not both


class Counted(L.Layer):
    """Does one thing for symbols, and another for a batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4)

    def call(self, x):
        return self.dense(x) * (1.0 if x.shape[0] is None else float(x.shape[0]))


def test_a_graph_that_computes_something_else_than_its_layer_is_not_taken():
    model = applied(Around(Counted(name="counted")), [ROWS])
    copy = opened(model, tf.constant(ROWS))
    assert list(copy.notes.values()) == ["not opened: as a graph it computes something else on the calibration data"]
    assert_allclose(outputs(copy.model, [ROWS])[0], outputs(model, [ROWS])[0], rtol=1e-6)


def test_what_is_not_opened_counts_as_work_in_float():
    model = applied(Around(Counted(name="counted")), [ROWS])
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert tq.summary(prepared).coverage < 1
    (name,) = tq.summary(prepared).work.float_operations
    assert name.endswith("/inner")


class CountedModel(keras.Model):
    """Does one thing for symbols, and another for a batch."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        return self.dense(x) * (1.0 if x.shape[0] is None else float(x.shape[0]))


class Sampled(keras.Model):
    """Draws random numbers, of the size of what it draws them for."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = L.Dense(4), L.Dense(24)

    def call(self, x):
        mean = self.encode(x)
        return self.decode(mean + tf.random.normal(tf.shape(mean)))


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (CountedModel, "as a graph it computes something else on the calibration data"),
        (Sampled, "random numbers that do not come from its inputs"),
    ],
)
def test_a_model_whose_graphs_never_compute_what_it_does_stays_as_it_is(cls, reason):
    model = cls()
    model(ROWS)
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert not isinstance(prepared, KerasOpenedModel)
    assert all(reason in row.reason for row in tq.summary(prepared).rows)
