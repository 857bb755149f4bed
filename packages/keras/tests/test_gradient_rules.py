"""The rules by which values and thresholds learn: scaled by the rounding error, and thresholds as logarithms."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_builders import Method, weights_config
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import keras, stored
from trainable_quantizers_keras.kernels.fake_quantize import fake_quantize

RULES = {"threshold_domain": "log2", "ewgs": 0.4}
ROWS = np.random.default_rng(1).standard_normal((16, 4)).astype("float32")
L = keras.layers


def prepared(method="power_of_two", rules=RULES, **weights):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "swish", name="hidden"), L.Dense(2, name="head")]
    network = keras.Sequential([keras.Input((4,), name="x"), *layers])
    scheme = {"num_bits": 3, "method": method, **rules}
    return tq.prepare(network, tq.Recipe({**scheme, **weights}, scheme), [ROWS], verbose=False)


def fitted(model, epochs=3, callbacks=()):
    if getattr(model, "optimizer", None) is None:
        model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(ROWS, ROWS[:, :2], 16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


# 3 bits signed, step 0.5
VALUES = np.float32([-9.0, -2.0, -0.8, -0.35, 0.0, 0.2, 0.65, 1.5, 9.0])
ERRORS = np.float32([0.0, 0.0, -0.4, -0.3, 0.0, -0.4, -0.3, 0.0, 0.0])  # (y - x)/step inside


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_rounding_error_scales_the_gradient_of_values_and_of_nothing_else(sign):
    inputs = [tf.constant(VALUES), tf.constant(-2.0), tf.constant(1.5)]
    results = []
    for delta in (0.5, 0.0):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = fake_quantize(*inputs, Grid(3, True), None, True, 1.0, delta)
        results.append((*tape.gradient(y, inputs, tf.fill(y.shape, sign)), y))
    (scaled, *others), (plain, *wanted) = results
    np.testing.assert_allclose(scaled, plain * (1 - 0.5 * sign * ERRORS), rtol=1e-6)
    assert all(map(np.array_equal, others, wanted))


def test_an_optimizer_moves_a_threshold_in_the_log2_domain_by_factors():
    config = weights_config({tq.THRESHOLD: [0.01, 1.0, 100.0]}, threshold_domain="log2")
    quantizer, layer = tq.LSQSymmetricWeightsTrainableQuantizer(config), L.Layer()
    quantizer.initialize_quantization((1, 3), "kernel", layer)
    optimizer = keras.optimizers.Adam(0.125)
    for _ in range(8):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(quantizer(tf.fill((1, 3), 1000.0)))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables, strict=True)
        )
    factors = quantizer.read_variable("threshold") / np.array([0.01, 1.0, 100.0])
    assert factors.max() < 0.6
    np.testing.assert_allclose(factors, factors[0], rtol=1e-3)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "lut_power_of_two"])
def test_a_model_fits_converts_bit_for_bit_and_comes_back_exactly(method, tmp_path):
    rules = {"threshold_domain": "log2"} if "lut" in method else RULES
    model = fitted(prepared(method, rules))
    model.save_weights(f"{tmp_path}/model.weights.h5")
    fresh = prepared(method, rules)
    fresh.load_weights(f"{tmp_path}/model.weights.h5")
    assert all(map(np.array_equal, fresh.get_weights(), model.get_weights()))
    for each in (model, fresh):
        np.testing.assert_array_equal(tq.convert(each)(ROWS), model(ROWS))


def test_in_a_graph_it_learns_the_same():
    model = prepared("symmetric")

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, [stored(each) for each in model.trainable_variables])

    for eager, graph in zip(gradients(tf.constant(ROWS)), tf.function(gradients)(tf.constant(ROWS)), strict=True):
        np.testing.assert_allclose(eager, graph, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric"])
def test_files_of_parameters_hold_thresholds_of_every_domain(method, tmp_path):
    linear, log2_again, log2 = prepared(method, {}), prepared(method), fitted(prepared(method))
    tq.save_quantizers(log2, tmp_path / "log2.safetensors")
    for model in (linear, log2_again):
        for one, other in zip(model.weights, log2.weights, strict=True):
            if len(one.shape) == 2 or "bias" in one.name:
                one.assign(other)
        tq.load_quantizers(model, tmp_path / "log2.safetensors")
        np.testing.assert_array_equal(model(ROWS), log2(ROWS))


def test_telemetry_is_that_of_thresholds_in_every_domain():
    def loss(model, batch):
        return tf.reduce_mean(tf.square(model(batch)))

    of_thresholds, of_logarithms = (
        tq.telemetry(prepared(rules=rules), [ROWS], loss) for rules in ({}, {"threshold_domain": "log2"})
    )
    assert of_logarithms.keys() == of_thresholds.keys()
    for name, value in of_thresholds.items():
        assert of_logarithms[name] == pytest.approx(value, rel=1e-5), name


def test_thresholds_that_do_not_learn_yet_keep_their_logarithms():
    model = prepared(schedule={"learn_from": 2})
    quantizer = next(each.quantizer for each in quantizers_of(model) if each.target == "weights")
    start = quantizer.read_variable("threshold")
    fitted(model, 2, [tq.QuantizationScheduleCallback()])
    assert np.array_equal(quantizer.read_variable("threshold"), start)
    fitted(model, 1, [tq.QuantizationScheduleCallback()])
    assert not np.array_equal(quantizer.get_quantizer_variable("threshold"), np.log2(start))


def test_weights_are_reconstructed_as_without_the_rules():
    found = [tq.reconstruct(prepared(rules=rules, bias="float"), [ROWS], steps=5) for rules in ({}, RULES)]
    np.testing.assert_array_equal(*(model(ROWS) for model in found))


TABLE = {tq.LUT_VALUES: list(range(16))}
MEANINGLESS = [
    (tq.AdaRoundSymmetricWeightsTrainableQuantizer, Method.SYMMETRIC, {}, "0 with soft rounding, got 0.4"),
    (tq.LSQTableWeightsTrainableQuantizer, Method.LUT_SYM_QUANTIZER, TABLE, "0 with a look-up table, got 0.4"),
]


@pytest.mark.parametrize(("quantizer", "method", "table", "message"), MEANINGLESS)
def test_a_rounding_error_that_is_none_is_refused(quantizer, method, table, message):
    config = weights_config({tq.THRESHOLD: 1.0, **table}, weights_quantization_method=method, ewgs=0.4)
    with pytest.raises(tq.QuantizerError, match=f"{quantizer.__name__}: ewgs must be {message}"):
        quantizer(config)


def test_a_quantizer_shows_its_rules():
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(weights_config(**RULES))
    assert repr(quantizer).endswith("channels on axis -1, log2 threshold, ewgs 0.4)")
