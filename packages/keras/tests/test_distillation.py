"""The float model teaches: its outputs and layers pull on the student, thresholds included, and it stays as it is."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, SPECIAL, residual, subclassed

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe({"num_bits": 4}, {"num_bits": 4})


def prepared(build=residual, data=IMAGES, **options):
    keras.utils.set_random_seed(0)
    network = build()
    return network, tq.prepare(network, RECIPE, [data], verbose=False, **options)


def relative(given, wanted):
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    return np.sum((given - wanted) ** 2) / np.sum(wanted**2)


def divergence(given, wanted, temperature):
    p, q = (np.exp(np.asarray(each, np.float64) / temperature) for each in (wanted, given))
    p, q = (each / each.sum(-1, keepdims=True) for each in (p, q))
    return temperature**2 * (p * np.log(p / q)).sum(-1).mean()


def loss_of(distillation, inputs, **options):
    distillation(inputs, **options)
    (loss,) = distillation.losses
    return float(loss)


def activated():
    """A function of Keras inside a layer, which ``prepare`` takes out."""
    return keras.Sequential([keras.Input((8, 8, 3)), L.Dense(8, "tanh", name="hidden"), L.Dense(5)])


@pytest.mark.parametrize(
    ("build", "layer", "inside"), [(residual, "relu", "relu_quantized"), (activated, "hidden", "hidden_tanh_quantized")]
)
def test_the_loss_is_that_of_the_formula(build, layer, inside):
    network, model = prepared(build)
    given, wanted = model(IMAGES), network(IMAGES)
    tapped = [
        keras.Model(each.inputs[0], each.get_layer(name).output) for each, name in ((model, inside), (network, layer))
    ]
    layers = relative(*(each(IMAGES) for each in tapped))
    for temperature, expected in ((None, relative(given, wanted)), (3.0, divergence(given, wanted, 3.0))):
        distillation = tq.Distillation(network, model, (layer,), temperature, weight=0.5)
        np.testing.assert_array_equal(distillation(IMAGES), given)
        assert loss_of(distillation, IMAGES) == pytest.approx(expected + 0.5 * layers, rel=1e-4)


def test_classes_may_count_along_another_axis():
    rows = IMAGES.reshape(6, 3, 64)
    network, model = prepared(lambda: keras.Sequential([keras.Input((3, 64)), L.Dense(4)]), rows)
    expected = divergence(*(np.moveaxis(each(rows), 1, -1) for each in (model, network)), 2.0)
    assert loss_of(tq.Distillation(network, model, temperature=2.0, class_axis=1), rows) == pytest.approx(
        expected, rel=1e-4
    )


KINDS = {
    "functional": (residual, IMAGES, ("norm", "relu")),
    "Sequential": (activated, IMAGES, ("hidden",)),
    "subclassed": (subclassed, ROWS, ("blocks.0", "inner")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fit_takes_the_loss_with_or_without_one_of_its_own(kind):
    build, data, layers = KINDS[kind]
    network, model = prepared(build, data)
    before, weights = network.get_weights(), model.get_weights()
    distillation = tq.Distillation(network, model, layers, temperature=2.0)
    distillation.compile(keras.optimizers.SGD(0.1))
    fitted = distillation.fit(data, batch_size=3, epochs=2, verbose=0).history["loss"]
    assert fitted[-1] > 0
    thresholds = [index for index, each in enumerate(model.weights) if "threshold" in getattr(each, "path", each.name)]
    now = model.get_weights()
    assert thresholds and any(np.any(now[index] != weights[index]) for index in thresholds)
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    wanted = network(data)
    labels = tf.nest.map_structure(lambda each: np.zeros(each.shape, "float32"), wanted)
    if isinstance(labels, np.ndarray):
        alone = loss_of(distillation, data)
        distillation.compile("sgd", "mse")
        expected = alone + np.mean(np.square(model(data)))
        assert distillation.evaluate(data, labels, verbose=0) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(tf.nest.flatten(tq.convert(model)(data))[0], tf.nest.flatten(model(data))[0])


def test_schedules_move_in_the_students_place():
    network = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    model = tq.prepare(network, tq.Recipe({"num_bits": 4, "schedule": {"start": 2}}), verbose=False)
    distillation = tq.Distillation(network, model)
    distillation.compile("sgd")
    distillation.fit(np.ones((8, 4)), batch_size=2, verbose=0, callbacks=[tq.QuantizationScheduleCallback()])
    assert [float(weight) for weight in model.weights if "kernel_step" in weight.name] == [4.0]


def test_a_loop_of_ones_own_reads_the_losses():
    network, model = prepared()
    distillation = tq.Distillation(network, model, ("norm",))

    @tf.function
    def gradients(batch):
        with tf.GradientTape() as tape:
            distillation(batch, training=True)
            loss = tf.add_n(distillation.losses)
        variables = [getattr(each, "_value", each) for each in model.trainable_weights]
        return [each is not None for each in tape.gradient(loss, variables)]

    assert all(gradients(IMAGES))


@pytest.mark.parametrize("name", [*NETWORKS, *SPECIAL])
def test_a_model_has_nothing_to_learn_from_itself(name):
    build, inputs = {**NETWORKS, **SPECIAL}[name]
    network = build()
    network(inputs)
    for temperature in (None, 2.0):
        assert abs(loss_of(tq.Distillation(network, network, (), temperature), inputs)) < 1e-6


def with_inner():
    inner = [keras.Input((8, 8, 3)), L.Conv2D(8, 3, name="first"), L.BatchNormalization(name="first_norm")]
    return keras.Sequential([keras.Input((8, 8, 3)), keras.Sequential(inner, name="inner"), L.Flatten(), L.Dense(5)])


@pytest.mark.parametrize(("build", "path"), [(residual, ""), (with_inner, "inner/")])
def test_folded_norms_are_compared_where_they_went(build, path):
    network, model = prepared(build, fold_batch_norm=True)
    assert 0 < loss_of(tq.Distillation(network, model, (f"{path}first_norm",)), IMAGES) < 0.5
    with pytest.raises(tq.QuantizerError, match=f"got '{path}first'; name '{path}first_norm', which folded into it"):
        tq.Distillation(network, model, (f"{path}first",))


def test_what_cannot_teach_is_refused():
    network, model = prepared()
    for options, told in (
        ({"layers": ("norms",)}, "layers must be names of layers of the teacher, got 'norms'; did you mean 'norm'"),
        ({"layers": "norm"}, "layers must be a sequence of names"),
        ({"temperature": 0}, "temperature must be a positive number or None, got 0"),
        ({"weight": -1}, "weight must be a number of at least 0, got -1"),
        ({"class_axis": 1.5}, "class_axis must be an integer, got 1.5"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            tq.Distillation(network, model, **options)
    with pytest.raises(tq.QuantizerError, match="student must be a model"):
        tq.Distillation(network, None)
    other = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(4)])
    with pytest.raises(tq.QuantizerError, match="names of layers that the student has as well, got 'head'"):
        tq.Distillation(network, other, ("head",))
    with pytest.raises(tq.QuantizerError, match=r"outputs of the student must be those of the teacher, .*\(6, 5\)"):
        tq.Distillation(network, other)(IMAGES)
    rows = keras.Input((24,))
    own = keras.Model(rows, L.Dense(5)(L.Dense(8, lambda x: tf.sin(x), name="hidden")(rows)))
    student = tq.prepare(own, RECIPE, [ROWS], verbose=False)
    with pytest.raises(tq.QuantizerError, match="got 'hidden'; its activation function is separate now"):
        tq.Distillation(own, student, ("hidden",))
