"""Batch norms that fold at conversion: they normalize in training, and the deployed weight is quantized all along."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.inventory import trainable_quantizers

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).standard_normal((16, 3)).astype("float32")
RECIPE = tq.Recipe.preset("power_of_two_8bit")
UNCORRECTED = tq.Recipe({"num_bits": 8}, {"num_bits": 8})


@functools.cache
def network():
    """Each kind of layer that takes a norm in, with norms of all forms."""
    keras.utils.set_random_seed(0)
    given = keras.Input((6, 6, 2))
    x = L.ReLU()(L.BatchNormalization(name="norm")(L.Conv2D(4, 3, use_bias=False, name="conv")(given)))
    x = L.ReLU()(L.BatchNormalization(scale=False)(L.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise")(x)))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2DTranspose(4, 2, name="up")(x)))
    x = L.BatchNormalization(center=False)(L.Dense(3, name="head")(L.Flatten()(x)))
    model = keras.Model(given, x)
    rng = np.random.default_rng(2)
    model.set_weights([weight + 0.3 * rng.random(weight.shape) for weight in model.get_weights()])
    return model


def prepared(fold="at_conversion", recipe=RECIPE, given=None, **options):
    return tq.prepare(given or network(), recipe, [X], fold_batch_norm=fold, verbose=False, **options)


def small(**options):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(4, name="dense", use_bias=False), L.BatchNormalization(name="norm", **options)]
    model = keras.Sequential([keras.Input((6, 6, 2), name="images"), *layers])
    rng = np.random.default_rng(2)
    model.set_weights([weight + 0.3 * rng.random(weight.shape) for weight in model.get_weights()])
    return model


@functools.cache
def trained():
    model = prepared()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model, model.fit(X, Y, batch_size=8, epochs=4, verbose=0).history["loss"]


def wrapper_of(model):
    return next(layer for layer in model.layers if layer.name == "dense")


def test_at_the_start_it_evaluates_as_if_it_were_folded():
    model, folded = prepared(), prepared(True)
    np.testing.assert_array_equal(model(X), folded(X))
    assert not any(isinstance(layer, L.BatchNormalization) for layer in model.layers)
    reasons = [row.reason.replace(" at conversion", "") for row in tq.summary(model).rows]
    assert reasons == [row.reason for row in tq.summary(folded).rows]


def test_it_learns_and_deploys_what_it_evaluates(tmp_path):
    model, losses = trained()
    assert losses[-1] < losses[0]
    deployed = tq.convert(model)
    np.testing.assert_array_equal(deployed(X), model(X))
    assert not any(isinstance(layer, L.BatchNormalization) for layer in deployed._flatten_layers())
    program = tq.to_integer(deployed, X)
    assert tq.verify(deployed, program, [X]).identical and not program.float_operations
    model.save(tmp_path / "model.keras")
    again = tq.keras_load_quantized_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(X), model(X))
    np.testing.assert_array_equal(again(X, training=True), model(X, training=True))  # also the statistics go on
    np.testing.assert_array_equal(again(X), model(X))
    model.save_weights(tmp_path / "model.weights.h5")
    twin = prepared()
    twin.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(twin(X), model(X))


def without_quantizers(model):
    for quantizer in trainable_quantizers(model):
        quantizer.enabled = False
    for layer in model.layers:
        if getattr(layer, "accumulator", None) is not None:
            layer.accumulator = None
    return model


def loss_and_gradients(model, names):
    variables = [
        next(v for v in model.trainable_variables if name in v.name and "threshold" not in v.name) for name in names
    ]
    with tf.GradientTape() as tape:
        result = model(X, training=True)
        loss = tf.reduce_sum(result * tf.cast(tf.reshape(tf.range(tf.size(result)), result.shape) % 7, tf.float32))
    return result, tape.gradient(loss, variables)


def test_in_training_it_computes_and_learns_as_the_float_model_does():
    given = small()
    model, copy = without_quantizers(prepared(given=given, recipe=UNCORRECTED)), keras.models.clone_model(given)
    copy.set_weights(given.get_weights())
    names = ["kernel", "gamma", "beta"]
    (one, gradients), (two, expected) = (loss_and_gradients(each, names) for each in (model, copy))
    np.testing.assert_allclose(one, two, atol=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)
    norm, theirs = wrapper_of(model).batch_norm, copy.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, theirs.moving_mean, rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, theirs.moving_variance, rtol=1e-4)
    (_, (bias,)) = loss_and_gradients(model, ["bias"])
    assert not np.any(bias)


def test_a_frozen_norm_evaluates_while_the_rest_trains():
    model = prepared(given=small())
    wrapper_of(model).batch_norm.trainable = False
    before = wrapper_of(model).batch_norm.moving_mean.numpy()
    np.testing.assert_array_equal(model(X, training=True), model(X, training=False))
    np.testing.assert_array_equal(wrapper_of(model).batch_norm.moving_mean, before)
    assert any("kernel" in each.name for each in model.trainable_variables)


def test_a_channel_without_gamma_gives_beta():
    given = small()
    norm = given.get_layer("norm")
    norm.gamma.assign([0.0, 1.0, 1e-30, -1.0])
    model = prepared(given=given, recipe=tq.Recipe({"num_bits": 8}))
    for mode in (True, False):
        found = model(X, training=mode).numpy()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(
            found[..., [0, 2]], np.broadcast_to(norm.beta.numpy()[[0, 2]], found[..., :2].shape), atol=1e-6
        )
    _, (gamma, kernel) = loss_and_gradients(model, ["gamma", "kernel"])
    assert np.isfinite(kernel).all()
    assert gamma.numpy()[0] == 0
    assert gamma.numpy()[1] != 0


def test_a_layer_in_float_takes_its_norm_in_at_once():
    model = prepared(given=small(), recipe=tq.Recipe(activations={"num_bits": 8}))
    assert isinstance(wrapper_of(model), L.Dense)
    np.testing.assert_array_equal(model(X, training=True), model(X))


def test_corrected_biases_are_those_of_the_folded_model():
    recipe = tq.Recipe({"num_bits": 3, "bias_correction": True})
    model, folded = (prepared(fold, recipe, small()) for fold in ("at_conversion", True))
    np.testing.assert_allclose(model(X), folded(X), atol=1e-5)


def test_statistics_are_estimated_anew():
    model = without_quantizers(prepared(given=small(), recipe=UNCORRECTED))
    wrapper = wrapper_of(model)
    tq.reestimate_batch_norm(model, np.split(X, 2))
    sums = (X @ wrapper.layer.kernel.numpy()).reshape(2, -1, 4)
    np.testing.assert_allclose(wrapper.batch_norm.moving_mean, sums.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(wrapper.batch_norm.moving_variance, sums.var(1).mean(0), rtol=5e-3)
    assert "norm_mode" not in vars(wrapper) and wrapper.norm.constant is None


def test_telemetry_is_that_of_the_folded_weight():
    def loss(model, batch):
        return tf.reduce_mean(model(batch) ** 2)

    model, folded = (tq.telemetry(prepared(fold, given=small()), [X], loss) for fold in ("at_conversion", True))
    assert model == pytest.approx(folded, rel=1e-4)


FREEZING = tq.Recipe({"num_bits": 3, "oscillations": {"momentum": 0.25, "freeze_above": 0.2}})
REFUSED = {
    "another word": (lambda: prepared("later"), "fold_batch_norm must be False, True or 'at_conversion', got 'later'"),
    "equalize": (lambda: prepared(equalize=True), "use fold_batch_norm=True"),
    "reconstruct": (lambda: tq.reconstruct(prepared(given=small()), [X], steps=5), "prepare with fold_batch_norm=True"),
    "freezing": (lambda: prepared(recipe=FREEZING, given=small()), "with fold_batch_norm=True"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_writes_weights_is_refused(make, message):
    with pytest.raises(tq.QuantizerError, match=message):
        make()
