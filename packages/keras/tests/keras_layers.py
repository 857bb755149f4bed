"""Layers whose calls are Python, and models around them with inputs."""

import numpy as np
import tensorflow as tf
from keras_networks import ROWS, SEQUENCES, TOKENS

keras = tf.keras
L = keras.layers
SIZES = getattr(keras, "ops", tf)


def applied(layer, inputs, **options):
    """A functional model around one call of a layer."""
    symbols = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    return keras.Model(symbols, layer(*symbols, **options))


def built(model):
    model(ROWS)
    return model


class Around(L.Layer):
    """A layer inside, and one of its own behind it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.dense = inner, L.Dense(4)

    def call(self, x):
        return self.dense(self.inner(x))


class Masked(L.Layer):
    """Steps of tokens that are padding are left out, by layers inside."""

    def __init__(self):
        super().__init__()
        self.words, self.steps = L.Embedding(10, 6, mask_zero=True), L.LSTM(4)

    def call(self, tokens):
        return self.steps(self.words(tokens))


class Attended(L.Layer):
    """Takes the mask of its input, and computes with it."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x, mask=None):
        y = self.dense(x)
        return tf.reduce_sum(y * tf.cast(mask, y.dtype)[:, :, None] if mask is not None else y, axis=1)


class Between(L.Layer):
    """Two tensors, one of them by name, and a number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key = L.Dense(4), L.Dense(4)

    def call(self, x, context, scale=1.0):
        return self.query(x) * scale + self.key(context)


class Chosen(L.Layer):
    """A function that a method made, which reads layers from there; a dictionary in, a tuple out."""

    def __init__(self):
        super().__init__()
        dense = L.Dense(4)
        self.dense = dense
        self.function = lambda x: tf.nn.relu(dense(x))

    def call(self, inputs):
        x = self.function(inputs["x"])
        return x, x + inputs["y"]


class Weighted(L.Layer):
    """Its own code reads weights, in a product, a sum, and a list."""

    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(name="kernel", shape=(24, 4))
        self.parts = [self.add_weight(name=f"part_{i}", shape=(4,)) for i in range(2)]

    def call(self, x):
        return tf.matmul(x, self.kernel) + self.parts[0] - tf.nn.relu(self.parts[1])


class Causal(L.Layer):
    """Sizes that the batch decides."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        y = self.dense(x)
        batch, length = SIZES.shape(y)[0], SIZES.shape(y)[1]
        steps = tf.range(length) if SIZES is tf else SIZES.arange(length)
        earlier = tf.cast(steps[:, None] >= steps[None, :], "float32")[None]
        return tf.matmul(SIZES.broadcast_to(earlier, (batch, length, length)), y) / 8.0


class Positioned(L.Layer):
    """Layers inside of the same name, one of which is called on constants."""

    def __init__(self):
        super().__init__()
        self.first, self.second = L.Dense(6, name="same"), L.Dense(6, name="same")
        self.positions = L.Embedding(5, 6)
        self.nothing = L.Dropout(0.0)
        self.turned = Turned()

    def call(self, x):
        y = self.first(x) + self.positions(tf.range(5))
        return self.nothing(self.second(self.turned(y))) + self.turned(y[:, :, :2] * 2.0)[:, :, :1]


class Turned(L.Layer):
    """No weights; called on tensors of several sizes."""

    def call(self, x):
        return tf.concat([x[:, :, 1:], x[:, :, :1]], axis=-1)


class Handed(L.Layer):
    """Gives what it is given."""

    def call(self, x):
        return x


def with_sizes():
    steps = keras.Input((None, 8))
    return keras.Model(steps, Causal()(steps)), [SEQUENCES]


def with_constants():
    return applied(Positioned(), [SEQUENCES]), [SEQUENCES]


def with_nothing():
    steps = keras.Input((5, 8))
    handed = Handed()
    return keras.Model(steps, L.Dense(3)(handed(L.Dense(8)(handed(steps))))), [SEQUENCES]


def with_masks():
    return applied(Masked(), [TOKENS]), [np.where(TOKENS > 6, 0, TOKENS)]


def with_a_given_mask():
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, Attended()(L.Embedding(10, 6, mask_zero=True)(tokens)))
    return model, [np.where(TOKENS > 6, 0, TOKENS)]


def with_arguments():
    x, context = keras.Input((24,)), keras.Input((24,))
    return keras.Model([x, context], Between()(x, context=context, scale=0.5)), [ROWS, ROWS[::-1].copy()]


def with_structures():
    x, y = keras.Input((24,)), keras.Input((4,))
    return keras.Model([x, y], Chosen()({"x": x, "y": y})), [ROWS, ROWS[:, :4].copy()]


def with_weights():
    return applied(Weighted(), [ROWS]), [ROWS]
