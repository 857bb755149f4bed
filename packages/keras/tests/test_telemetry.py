"""Figures of quantizers while a model trains."""

import re

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, SHOWN, residual
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainable_quantizers_keras.inventory import quantizers_of

keras = tf.keras
LABELS = np.arange(6) % 5
FIGURES = {"threshold", "clipped", "range_used", "levels_used", "sqnr", "gradient_ratio"}
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def prepared(name="residual", **options):
    keras.utils.set_random_seed(0)
    build, inputs = NETWORKS[name]
    data = tuple(inputs) if isinstance(inputs, list) else inputs
    return tq.prepare(
        build(), tq.Recipe({"num_bits": 4, "method": "symmetric", **options}, {"num_bits": 4}), [data], verbose=False
    ), data


def loss(model, batch):
    return CROSS_ENTROPY(batch[1], model(batch[0], training=False))


def test_each_quantizer_has_each_figure():
    model, _ = prepared()
    found = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    names = {f"{each.layer}.{each.attribute}" for each in quantizers_of(model)}
    for name in names:
        figures = {key.removeprefix(f"{name}/") for key in found if key.startswith(f"{name}/")}
        assert figures - {"threshold_lowest", "threshold_highest"} == FIGURES
    assert not {name: value for name, value in found.items() if not np.isfinite(value)}


@pytest.mark.parametrize("name", SHOWN)
def test_every_network_has_telemetry_and_nothing_of_it_changes(name):
    model, data = prepared(name)
    state = [weight.numpy() for weight in model.weights]
    inputs = list(data) if isinstance(data, tuple) else data

    def loss(model, batch):
        return tf.add_n([tf.reduce_mean(y**2) for y in tf.nest.flatten(model(inputs, training=False))])

    found = tq.telemetry(model, [data], loss)
    assert any(key.endswith("gradient_ratio") for key in found)
    for weight, before in zip(model.weights, state, strict=True):
        np.testing.assert_array_equal(weight.numpy(), before)


def test_the_gradient_ratio_is_that_of_the_gradients_that_training_sees():
    model, _ = prepared()
    found = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    (head,) = (layer for layer in model.layers if layer.name == "head")
    threshold, weight = head.weights_quantizers["kernel"].get_quantizer_variable("threshold"), head.layer.kernel
    with tf.GradientTape() as tape:
        value = loss(model, (IMAGES, LABELS))
    gradients = tape.gradient(value, [threshold, weight])
    norms = [np.linalg.norm(np.ravel(tensor)) for tensor in (*gradients, threshold, weight)]
    assert found["head.kernel/gradient_ratio"] == pytest.approx((norms[0] / norms[2]) / (norms[1] / norms[3]), rel=1e-5)


def test_the_ratio_of_an_input_is_that_of_its_own_gradient():
    model, _ = prepared()
    assert 0 < tq.telemetry(model, [(IMAGES, LABELS)], loss)["image.output/gradient_ratio"] < np.inf


def test_an_iterator_of_batches_is_enough():
    model, _ = prepared()
    wanted = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    assert tq.telemetry(model, iter([(IMAGES, LABELS)]), loss) == wanted


def test_what_the_loss_does_not_use_has_a_ratio_of_zero():
    rows = keras.Input((24,))
    network = keras.Model(rows, [keras.layers.Dense(2, name="used")(rows), keras.layers.Dense(3, name="unused")(rows)])
    model = tq.prepare(network, tq.Recipe({"num_bits": 4}), verbose=False)
    found = tq.telemetry(model, [ROWS], lambda model, batch: tf.reduce_mean(model(batch)[0] ** 2))
    assert found["used.kernel/gradient_ratio"] > 0
    assert found["unused.kernel/gradient_ratio"] == 0


def test_frozen_parameters_have_no_ratio():
    model, _ = prepared(freeze=True)
    assert not any("kernel/gradient_ratio" in key for key in tq.telemetry(model, [(IMAGES, LABELS)], loss))


def test_fit_with_the_callback_writes_what_tensorboard_reads(tmp_path):
    model, _ = prepared()
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    callback = tq.QuantizationTelemetryCallback(iter([(IMAGES, LABELS)]), loss, tmp_path)
    model.fit(IMAGES, LABELS, epochs=3, verbose=0, callbacks=[callback])
    written = callback.history
    assert len(written) == 3
    events = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert set(events.Tags()["tensors"]) == set(written[0])
    for name in ("head.kernel/threshold", "relu.output/clipped", "head.kernel/gradient_ratio"):
        read = [(event.step, tf.make_ndarray(event.tensor_proto).item()) for event in events.Tensors(name)]
        assert read == [(step, pytest.approx(found[name])) for step, found in enumerate(written)]
    assert written[0]["head.kernel/threshold"] != written[2]["head.kernel/threshold"]


MISTAKES = {
    "float": (lambda: tq.telemetry(residual(), [IMAGES]), "prepare it first"),
    "no writer": (lambda: tq.telemetry(prepared()[0], [IMAGES], writer="runs"), "must be a tf.summary.SummaryWriter"),
    "no scalar": (
        lambda: tq.telemetry(prepared()[0], [IMAGES], lambda model, batch: model(batch)),
        "loss must be a function that gives a scalar",
    ),
    "compiled": (
        lambda: tq.telemetry(prepared()[0], [IMAGES], tf.function(lambda model, batch: tf.reduce_sum(model(batch)))),
        "loss must be a function that runs eagerly",
    ),
    "data": (lambda: tq.QuantizationTelemetryCallback(3), "data must be an iterable of batches, got 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()
