"""Flip rates of weights while a model trains, freezing of those that oscillate, and the term that dampens them."""

import re

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_core.constants import FLIP_RATE, MEAN_LEVEL, MOVES
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.oscillations import level_and_direction
from trainable_quantizers_keras.inventory import quantized_weights
from trainable_quantizers_keras.keras_version import full_precision, stored

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
RULE = {"momentum": 0.25, "freeze_above": 0.2}


def prepared(method="power_of_two", oscillations=RULE, dtype=None, **fields):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(6, "relu", name="first", dtype=dtype), L.Dense(3, name="second")]
    network = keras.Sequential([keras.Input((8,)), *layers])
    recipe = tq.Recipe({"num_bits": 3, "method": method, "oscillations": oscillations, **fields}, {"num_bits": 4})
    return tq.prepare(network, recipe, [X], verbose=False)


def move(model, steps, advance=tq.advance_schedules):
    """Every variable that trains goes back and forth, by random widths."""
    generator = np.random.default_rng(1)
    for step in range(steps):
        for variable in model.trainable_variables:
            widths = generator.uniform(0, 0.1, variable.shape).astype("float32")
            variable.assign(variable + (-1.0) ** step * widths)
        advance(model)


def frozen(model):
    return [
        level_and_direction(NUMPY_OPS, quantizer.read_variable(MOVES))[1] == 2
        for _, quantizer in quantized_weights(model)
    ]


def values(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_weights_that_oscillate_stay_at_their_level_and_are_deployed_there(method):
    model = prepared(method)
    move(model, 4)
    held = frozen(model)
    assert all(0 < each.mean() < 1 for each in held)
    levels = [quantizer.read_variable(MEAN_LEVEL) for _, quantizer in quantized_weights(model)]
    move(model, 3)
    for (weight, quantizer), was, level in zip(quantized_weights(model), held, levels, strict=True):
        weight, mean = full_precision(weight), quantizer.read_variable(MEAN_LEVEL)
        wanted = (quantizer.broadcast(quantizer.step(), weight) * np.round(mean)).numpy()
        np.testing.assert_array_equal(weight.numpy()[was], wanted[was])
        if method != "power_of_two":  # whose step may have changed
            np.testing.assert_array_equal(mean[was], level[was])
        assert not np.array_equal(weight.numpy()[~was], wanted[~was])
    assert_equal(tq.convert(model)(X), model(X))


def test_a_forward_changes_nothing_and_rates_alone_change_no_weight():
    model, plain = prepared(oscillations={"momentum": 0.25}), prepared(oscillations=False)
    move(model, 4)
    move(plain, 4, advance=lambda model: None)
    before = values(model)
    model(X, training=True)
    assert_equal(before, values(model))
    assert_equal(model.trainable_variables, plain.trainable_variables)
    assert any(quantizer.read_variable(FLIP_RATE).any() for _, quantizer in quantized_weights(model))
    assert not any(each.any() for each in frozen(model))


class BackAndForth(keras.callbacks.Callback):
    """Changes the sign of the learning rate after each batch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.learning_rate.assign(self.model.optimizer.learning_rate * -0.95)


def fit(model, steps):
    callbacks = [tq.QuantizationScheduleCallback(), BackAndForth()]
    model.fit(X, np.ones((16, 3)), 16, epochs=steps, shuffle=False, verbose=0, callbacks=callbacks)


def test_a_training_that_resumes_goes_on_as_the_one_that_was_never_interrupted(tmp_path):
    model = prepared()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.5), "mse")
    fit(model, 3)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    fit(model, 2)
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(again, 2)
    assert_equal(values(model), values(again))
    assert any(each.any() for each in frozen(again))
    with pytest.raises(ValueError, match=r"must be as in the saved state \(oscillations True\)"):
        prepared(oscillations=False).load_weights(tmp_path / "model.weights.h5")


def test_graphs_strategies_and_mixed_precision_follow_as_eager_float32_does():
    eager = prepared()
    move(eager, 4)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = prepared(dtype="mixed_bfloat16")
        graph = tf.function(lambda steps: tq.advance_schedules(model, steps))
        move(model, 4, advance=lambda model: graph(tf.constant(1)))
        assert_equal(values(eager), values(model))
        graph(tf.constant(0))  # a step that was left out
        assert_equal(values(eager), values(model))
    assert any(each.any() for each in frozen(model))


def test_telemetry_tells_the_shares():
    model = prepared(oscillations={**RULE, "start": 5})
    move(model, 4)
    found = tq.telemetry(model, [X])
    rates = [quantizer.read_variable(FLIP_RATE) for _, quantizer in quantized_weights(model)]
    shares = [found[f"{name}.kernel/oscillating"] for name in ("first", "second")]
    assert shares == [np.mean(rate > 0.005) for rate in rates]
    move(model, 2)
    found = tq.telemetry(model, [X])
    assert [found[f"{name}.kernel/frozen"] for name in ("first", "second")] == [np.mean(each) for each in frozen(model)]
    assert not any("frozen" in name for name in tq.telemetry(prepared(oscillations=False), [X]))


def test_damping_pulls_weights_to_their_levels_and_reaches_nothing_else():
    model = prepared("symmetric", False, calibration="percentile", percentile=80.0)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tq.oscillation_damping(model)
    gradients = tape.gradient(loss, list(map(stored, variables)))
    reached = [gradient for gradient in gradients if gradient is not None]
    wanted = 0.0
    for (weight, quantizer), gradient in zip(quantized_weights(model), reached, strict=True):
        weight = full_precision(weight)
        low, high = (quantizer.broadcast(end, weight) for end in quantizer.effective_range())
        distance = tf.clip_by_value(weight, low, high) - quantizer(weight, False)
        wanted += tf.reduce_sum(distance**2)
        inside = tf.cast((weight >= low) & (weight <= high), tf.float32)
        assert not tf.reduce_all(inside == 1)
        np.testing.assert_allclose(gradient, 2 * distance * inside, atol=1e-7)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)


def test_sums_keep_within_their_bits():
    model = prepared(accumulator_bits=9)
    move(model, 4)
    assert any(each.any() for each in frozen(model))
    bits = [layer.accumulator_bits() for layer in model.layers if hasattr(layer, "accumulator_bits")]
    assert len(bits) == 2
    assert max(bits) <= 9
    assert_equal(tq.convert(model)(X), model(X))


FOLLOWED = tq.Oscillations(freeze_above=0.1)
MISTAKES = {
    "no rule": (
        lambda: tq.LSQSymmetricWeightsTrainableQuantizer(
            tq.WeightsScheme().config({"threshold": 1.0}, 0), oscillations=RULE
        ),
        "oscillations must be an instance of Oscillations",
    ),
    "activations": (
        lambda: tq.LSQSymmetricActivationTrainableQuantizer(
            tq.ActivationsScheme().config({"threshold": 1.0}), oscillations=FOLLOWED
        ),
        "oscillations must be None except for weights of evenly spaced levels",
    ),
    "soft rounding": (
        lambda: prepared(training_method="AdaRound"),
        "leave them out for activations, look-up tables and AdaRound",
    ),
    "a table": (
        lambda: prepared("lut_symmetric"),
        "leave them out for activations, look-up tables and AdaRound",
    ),
    "nothing to dampen": (
        lambda: tq.oscillation_damping(keras.Sequential([keras.Input((2,)), L.Dense(2)], name="plain")),
        "oscillation_damping: model must be one with quantized weights of layers, got 'plain'; prepare it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()
