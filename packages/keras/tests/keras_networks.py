"""Networks of many kinds for the tests of whole models: a function that builds one, and inputs for it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from trainable_quantizers_keras.keras_version import KERAS_3

keras = tf.keras
L = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 8, 8, 3)).astype("float32")
SEQUENCES = RNG.standard_normal((6, 5, 8)).astype("float32")
ROWS = RNG.standard_normal((6, 24)).astype("float32")
TOKENS = RNG.integers(0, 10, (6, 5)).astype("int32")
LARGE_IMAGES = RNG.random((2, 32, 32, 3)).astype("float32")


def residual():
    """A sum, batch norms, dropout."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.ReLU(name="first_relu")(
        L.BatchNormalization(name="first_norm")(L.Conv2D(8, 3, padding="same", name="first")(image))
    )
    y = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, padding="same", use_bias=False, name="second")(x))
    y = L.ReLU(name="relu")(L.Add(name="sum")([x, y]))
    return keras.Model(image, L.Dense(5, name="head")(L.Dropout(0.1)(L.GlobalAveragePooling2D(name="mean")(y))))


def chain():
    layers = [
        L.DepthwiseConv2D(3),
        L.BatchNormalization(),
        L.ReLU(),
        L.SeparableConv2D(4, 3, use_bias=False),
        L.BatchNormalization(),
        L.Conv2DTranspose(6, 2, strides=2),
        L.BatchNormalization(),
        L.Flatten(),
        L.Dense(3),
        L.BatchNormalization(),
        L.Softmax(),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def built_by_a_batch():
    model = keras.Sequential([L.Conv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(3)])
    model(IMAGES[:2])
    return model


def shared():
    """A layer and a model that are called twice; several outputs."""
    image = keras.Input((8, 8, 3))
    twice = L.Conv2D(3, 1, name="twice")
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv"), L.ReLU()], name="inner")
    x = twice(image)
    y = twice(x)
    return keras.Model(image, {"joined": L.Concatenate()([inner(x), inner(y)]), "early": x})


def inputs_of_two_kinds():
    """Integers, and operations on tensors."""
    tokens, rows = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((24,), name="rows")
    words = L.Flatten()(L.Embedding(10, 4, name="words")(tokens))
    return keras.Model(
        [tokens, rows], L.Dense(3)(L.Concatenate()([words, L.Dense(4, activation="tanh")(rows * 2.0)]) + 1.0)
    )


def recurrent():
    sequence = keras.Input((5, 8))
    x = L.TimeDistributed(L.Dense(6))(sequence)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")(x)
    return keras.Model(sequence, L.Dense(2)(L.GRU(3, name="gru")(x)))


def vision_transformer():
    image = keras.Input((8, 8, 3))
    x = L.Reshape((4, 8))(L.Conv2D(8, 4, strides=4)(image))
    for block in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(2, 4, name=f"attention_{block}")(y, y)])
        y = L.Dense(8)(L.Dense(16, activation="gelu")(L.LayerNormalization()(x)))
        x = L.Add()([x, y])
    return keras.Model(image, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


@keras.utils.register_keras_serializable("tests")
class Block(L.Layer):
    """Layers in a layer and in a list."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = L.Dense(units)
        self.others = [L.Dense(units), L.ReLU()]

    def call(self, x):
        x = self.first(x)
        for layer in self.others:
            x = layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.utils.register_keras_serializable("tests")
class Own(L.Layer):
    """A layer that no library knows."""

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], 4))
        super().build(input_shape)

    def call(self, x):
        return tf.matmul(x, self.kernel)


def own_layers():
    rows = keras.Input((24,))
    return keras.Model(rows, L.Dense(2)(Own(name="own")(Block(name="block")(rows))))


class Subclassed(keras.Model):
    """Calls in Python; a weight of its own; a model, a list and a dictionary of layers inside."""

    def __init__(self, units=8):
        super().__init__()
        self.units = units
        self.first = L.Dense(units)
        self.blocks = [Block(units), L.ReLU(), Own()]
        self.by_name = {"last": L.Dense(units)}
        self.inner = keras.Sequential([L.Dense(3), L.ReLU()])
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x, training=None):
        x = self.first(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return self.inner(self.by_name["last"](x))

    def get_config(self):
        return {"units": self.units}


def subclassed():
    model = Subclassed(6)
    model(ROWS[:2])
    return model


def adapted():
    """A layer whose statistics come from data."""
    norm = L.Normalization(name="adapted")
    norm.adapt(ROWS * 30 + 50)
    rows = keras.Input((24,))
    return keras.Model(rows, L.Dense(2)(norm(rows)))


PLAIN = {"recurrent_activation": "hard_sigmoid"}  # for Keras 2: each call of other LSTMs compiles a kernel for GPUs


def masked():
    """Steps that are left out, by tokens and by values."""
    tokens, sequence = keras.Input((5,), dtype="int32"), keras.Input((5, 8))
    words = L.LSTM(4, name="of_words", **PLAIN)(L.Embedding(10, 4, mask_zero=True)(tokens))
    values = L.LSTM(4, name="of_values", **PLAIN)(L.Dense(6)(L.Masking()(sequence)))
    return keras.Model([tokens, sequence], L.Dense(2)(L.Concatenate()([words, values])))


def attention_with_options():
    """Arguments by name, options, a mask that is given, scores that come back."""
    sequence, mask = keras.Input((5, 8)), keras.Input((5, 5), dtype="bool")
    x = L.MultiHeadAttention(2, 4, name="causal")(query=sequence, value=sequence, use_causal_mask=True)
    x = L.MultiHeadAttention(2, 4, name="given")(x, x, attention_mask=mask, use_causal_mask=True)
    x, scores = L.MultiHeadAttention(2, 4, name="scored")(x, x, return_attention_scores=True)
    return keras.Model([sequence, mask], [L.Dense(3)(x), scores])


def with_states():
    """Recurrent layers that begin where others ended."""
    sequence = keras.Input((5, 8))
    x, hidden, cell = L.LSTM(4, return_state=True, return_sequences=True, **PLAIN)(sequence)
    x = L.LSTM(4, return_sequences=True, **PLAIN)(x, initial_state=[hidden, cell])
    return keras.Model(sequence, L.Bidirectional(L.GRU(3, **PLAIN))(x))


def shared_across_models():
    """A layer of a model that the model around it calls too."""
    dense = L.Dense(24, name="shared")
    inner_rows, rows = keras.Input((24,)), keras.Input((24,))
    inner = keras.Model(inner_rows, L.ReLU()(dense(inner_rows)), name="inner")
    return keras.Model(rows, dense(inner(rows)))


def mobile_net():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)


NETWORKS = {
    "residual": (residual, IMAGES),
    "chain": (chain, IMAGES),
    "built by a batch": (built_by_a_batch, IMAGES),
    "shared": (shared, IMAGES),
    "inputs of two kinds": (inputs_of_two_kinds, [TOKENS, ROWS]),
    "recurrent": (recurrent, SEQUENCES),
    "vision transformer": (vision_transformer, IMAGES),
    "own layers": (own_layers, ROWS),
    "subclassed": (subclassed, ROWS),
}
STEPS = SEQUENCES.copy()
STEPS[:, 3:] = 0
CAUSAL = np.tril(np.ones((6, 5, 5), bool))
SPECIAL = {
    "adapted": (adapted, ROWS * 30 + 50),
    "masked": (masked, [TOKENS, STEPS]),
    "attention with options": (attention_with_options, [SEQUENCES, CAUSAL]),
    "with states": (with_states, SEQUENCES),
    "shared across models": (shared_across_models, ROWS),
}
MOBILE_NET = {"MobileNetV2": (mobile_net, LARGE_IMAGES)}
SHOWN = NETWORKS if KERAS_3 else {name: NETWORKS[name] for name in ("residual", "subclassed")}
"""For what Keras 3 shows of every network; with Keras 2 all go the whole way once, and these two do the rest."""


def outputs(model, inputs, training=False):
    """All results, as arrays."""
    return [np.asarray(tensor) for tensor in tf.nest.flatten(model(inputs, training=training))]
