"""Weights learn how they are rounded: from the float weight, through a schedule, to what is deployed."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import full_precision, stored

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 6, 6, 2)).astype("float32")


def prepared(method="power_of_two", **fields):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, activation="relu", name="conv"), L.Flatten(), L.Dense(3, name="dense")]
    network = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    weights = {"num_bits": 3, "method": method, "training_method": "AdaRound", "calibration": "min_max"}
    recipe = tq.Recipe({**weights, "bias": "float", "schedule": {"start": 2, "ramp": 4}, **fields})
    return network, tq.prepare(network, recipe, [X], verbose=False)


def train(model, network, epochs):
    mse = keras.losses.MeanSquaredError()
    model.compile(keras.optimizers.Adam(0.05), lambda y, given: mse(y, given) + 1e-3 * tq.rounding_regularizer(model))
    callbacks = [tq.QuantizationScheduleCallback()]
    model.fit(X, network(X), batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


def weights_of(model):
    return [
        (full_precision(weight), quantizer)
        for layer in model.layers
        for _, weight, quantizer in getattr(layer, "get_weights_vars", list)()
    ]


@pytest.mark.parametrize(
    "method", ["power_of_two", *(pytest.param(each, marks=pytest.mark.long) for each in ("symmetric", "uniform"))]
)
def test_training_begins_at_the_float_network_and_ends_at_the_deployed_one(method):
    network, model = prepared(method)
    (weight, quantizer), _ = weights_of(model)
    np.testing.assert_array_equal(quantizer(weight, True), np.clip(weight, *quantizer.effective_range()))
    assert not np.array_equal(model(X), network(X))
    train(model, network, 3)  # two steps each
    deployed = tq.convert(model)
    np.testing.assert_array_equal(model(X, training=True), deployed(X))
    np.testing.assert_array_equal(model(X), deployed(X))
    nearest = tq.convert(prepared(method)[1])
    assert not np.array_equal(nearest(X), deployed(X))


def test_the_regularizer_acts_while_the_schedule_ramps_and_on_alpha_alone():
    _, model = prepared()
    found = []
    for _ in range(7):
        found.append(float(tq.rounding_regularizer(model)))
        tq.advance_schedules(model)
    assert [value > 0 for value in found] == [False, False, True, True, True, True, False]
    _, model = prepared(schedule={"ramp": 4})
    h = np.concatenate([np.ravel(quantizer.rounding_of(weight)) for weight, quantizer in weights_of(model)])
    tq.advance_schedules(model, 2)
    with tf.GradientTape() as tape:
        loss = tq.rounding_regularizer(model)
    np.testing.assert_allclose(loss, np.sum(1 - np.abs(2 * h - 1) ** 11), rtol=1e-5)
    gradients = tape.gradient(loss, list(map(stored, model.trainable_variables)))
    names = [each.name for each, g in zip(model.trainable_variables, gradients, strict=True) if g is not None]
    assert len(names) == 2
    assert all("alpha" in name for name in names)


def test_weights_of_a_file_are_rounded_as_they_were(tmp_path):
    network, model = prepared()
    train(model, network, 2)
    model.save_weights(tmp_path / "model.weights.h5")
    again = prepared()[1]
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(X), again(X))
    with pytest.warns(UserWarning, match="converted at step 4, but its schedule"):
        np.testing.assert_array_equal(tq.convert(model)(X), tq.convert(again)(X))


def test_what_cannot_round_softly_is_refused():
    _, model = prepared(training_method="LSQ")
    with pytest.raises(tq.QuantizerError, match="rounding_regularizer: model must be one that learns to round"):
        tq.rounding_regularizer(model)
