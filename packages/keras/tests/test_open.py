"""Models and layers whose calls are Python become graphs, and stay what they were to their users."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, ROWS, SEQUENCES, TOKENS, Block, outputs
from numpy.testing import assert_allclose
from trainable_quantizers_keras.graph.open import opened
from trainable_quantizers_keras.graph.symbolic import Recording, in_words
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.layers.opened import KerasOpenedModel

keras = tf.keras
L = keras.layers
SIZES = getattr(keras, "ops", tf)
RECIPE = tq.Recipe.preset("power_of_two_8bit")


def applied(layer, inputs, **options):
    """A functional model around one call of a layer."""
    symbols = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    return keras.Model(symbols, layer(*symbols, **options))


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


class Scored(L.Layer):
    """Gives None beside its result."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(6)

    def call(self, x, scores=False):
        y = self.dense(x)
        return y, (y if scores else None)


class Positioned(L.Layer):
    """Layers inside of the same name, one of which is called on constants."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Scored(name="scored"), Scored(name="scored")
        self.positions = L.Embedding(5, 6)
        self.nothing = L.Dropout(0.0)
        self.turned = Turned()

    def call(self, x):
        y = self.first(x)[0] + self.positions(tf.range(5))
        return self.nothing(self.second(self.turned(y))[0]) + self.turned(y[:, :, :2] * 2.0)[:, :, :1]


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


OPENED = {
    make.__name__: make for make in (with_masks, with_a_given_mask, with_arguments, with_structures, with_weights)
}
COVERAGE = {"with_masks": 0}  # what goes around in an LSTM is in float


@pytest.mark.parametrize("name", OPENED)
def test_a_layer_is_opened_and_computes_the_same(name):
    model, inputs = OPENED[name]()
    copy = opened(model)
    assert not copy.notes
    assert any(isinstance(layer, KerasOpenedModel) for layer in copy.model.layers)
    for one, two in zip(outputs(model, inputs), outputs(copy.model, inputs), strict=True):
        assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPENED)
def test_an_opened_layer_is_quantized_inside_and_reloads(name, tmp_path):
    model, inputs = OPENED[name]()
    prepared = tq.prepare(model, RECIPE, [tuple(inputs)], verbose=False)
    assert tq.summary(prepared).coverage == COVERAGE.get(name, 1)
    deployed = tq.convert(prepared)
    deployed.save(tmp_path / "model.keras")
    again = tq.keras_load_quantized_model(tmp_path / "model.keras")
    for one, two, three in zip(*(outputs(each, inputs) for each in (prepared, deployed, again)), strict=True):
        assert (one == two).all()
        assert (one == three).all()


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
    Otherwise: "it does other things in training than in evaluation",
    Counting: "its result is not made of tensors alone",
}


class Around(L.Layer):
    """Hands on what the layer inside gives."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.dense = inner, L.Dense(4)

    def call(self, x, training=False):
        y = self.inner(x, training=training) if isinstance(self.inner, Otherwise) else self.inner(x)
        return self.dense(y[0] if isinstance(y, tuple) else y)


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


def test_a_graph_takes_batches_of_other_sizes():
    model, (steps,) = with_sizes()
    prepared = tq.prepare(model, RECIPE, [steps], verbose=False)
    deployed = tq.convert(prepared)
    for batch in (steps[:1], steps[:, :3], np.concatenate([steps, steps])):
        assert np.abs(outputs(prepared, batch)[0] - outputs(model, batch)[0]).max() < 0.2
        assert (outputs(prepared, batch)[0] == outputs(deployed, batch)[0]).all()


def test_what_is_not_opened_counts_as_work_in_float():
    model = applied(Around(Counted(name="counted")), [ROWS])
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert tq.summary(prepared).coverage < 1
    (name,) = tq.summary(prepared).work.float_operations
    assert name.endswith("/inner")


def test_mixed_precision_goes_on_inside():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = applied(Block(8), [ROWS])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    prepared = tq.prepare(model, RECIPE, [ROWS], verbose=False)
    (block,) = [layer for layer in prepared.layers if isinstance(layer, KerasOpenedModel)]
    wrappers = [layer for layer in block.layers if isinstance(layer, tq.KerasTrainableQuantizationWrapper)]
    assert {layer.compute_dtype for layer in wrappers} == {"float16"}
    assert {tf.as_dtype(weight.dtype) for weight in prepared.trainable_variables} == {tf.float32}
    assert_allclose(outputs(prepared, ROWS)[0], outputs(model, ROWS)[0], atol=0.2)


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


def test_opening_leaves_no_trace_in_the_float_model():
    model = applied(Around(Block(24)), [ROWS])
    before, nodes = outputs(model, [ROWS])[0], [len(layer._inbound_nodes) for layer in model.layers]
    tq.prepare(model, RECIPE, [ROWS], verbose=False)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert (outputs(model, [ROWS])[0] == before).all()
    assert "call" not in vars(model.layers[1].inner)


def own_function(x):
    return tf.nn.elu(x) * 0.5


def functional():
    rows = keras.Input((24,))
    return keras.Model(rows, L.Dense(3)(L.Dense(4, activation=own_function)(rows)))


def sequential():
    return keras.Sequential([keras.Input((24,)), L.Dense(4, activation=own_function), L.Dense(3)])


def separable():
    layers = [L.Reshape((6, 4)), L.SeparableConv1D(4, 3, activation=own_function), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((24,)), *layers])


@pytest.mark.parametrize("build", [functional, sequential, separable])
def test_an_activation_function_of_ones_own_is_quantized_around(build):
    network = build()
    prepared = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    assert type(prepared) is type(network)
    types = [row.type for row in tq.summary(prepared).rows]
    assert {"elu"} <= {word.lower() for word in types}
    assert tq.summary(prepared).coverage == 1
    assert np.abs(outputs(prepared, [ROWS])[0] - outputs(network, [ROWS])[0]).max() < 0.2


def test_weights_of_convolutional_recurrent_layers_are_quantized():
    frames = keras.Input((2, 6, 6, 3))
    network = keras.Model(frames, L.Flatten()(L.ConvLSTM2D(2, 3, name="video")(frames)))
    video = np.random.default_rng(0).standard_normal((2, 2, 6, 6, 3)).astype("float32")
    prepared = tq.prepare(network, RECIPE, [video], verbose=False)
    found = {parameter.attribute for parameter in quantizers_of(prepared) if parameter.layer == "video"}
    assert found == {"cell.kernel", "cell.recurrent_kernel", "output"}
    assert (outputs(tq.convert(prepared), [video])[0] == outputs(prepared, [video])[0]).all()


def test_a_convolution_with_a_kernel_of_its_own_opens():
    class Standardized(keras.layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
            return super().convolution_op(inputs, (kernel - mean) / tf.sqrt(variance + 1e-10))

    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(Standardized(4, 3)(image)))
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")
    wide = {"num_bits": 16, "method": "symmetric", "calibration": "min_max"}
    model = tq.prepare(network, tq.Recipe(wide, wide), [x], verbose=False)
    np.testing.assert_allclose(model(x), network(x), atol=1e-2)


def test_a_constant_beside_a_result_does_not_keep_a_layer_closed():
    class WithNothing(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(24)

        def call(self, x):
            return self.dense(x), tf.constant([[1.0, 2.0]])

    given = keras.Input((24,))
    hidden, constant = WithNothing()(given)
    network = keras.Model(given, [L.Dense(2)(hidden), constant])
    model = tq.prepare(network, tq.Recipe.preset("power_of_two_8bit"), [ROWS], verbose=False)
    assert tq.summary(model).coverage == 1
    np.testing.assert_array_equal(model(ROWS)[1], [[1.0, 2.0]])
    for one, other in zip(tq.convert(model)(ROWS), model(ROWS), strict=True):
        np.testing.assert_array_equal(one, other)


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


def built(model):
    model(ROWS)
    return model


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
