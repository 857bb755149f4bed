"""Weights learn their widths: from a mixture, within a budget, to one that is deployed, and written as a recipe."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import residual
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import full_precision, stored

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
ROWS = X[:, 0, 0]
DQA = {"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"start": 1, "ramp": 6}}
SIZES = {"first": 216, "second": 576, "head": 40}
WORK = {"first": 216 * 64, "second": 576 * 64, "head": 40}  # for one example
LATENCY = {name: {(bits, 8): size * bits for bits in (2, 4, 8)} for name, size in SIZES.items()}


def prepared(network=residual, data=X, **weights):
    keras.utils.set_random_seed(0)
    network = network()
    recipe = tq.Recipe({**DQA, **weights}, {"num_bits": 8})
    return network, recipe, tq.prepare(network, recipe, [data], verbose=False)


def small():
    layers = [L.Dense(4, activation="relu", name="hidden"), L.Dense(2, name="head")]
    return keras.Sequential([keras.Input((3,)), *layers])


class InPython(keras.Model):
    """Nothing shows the shapes of what its call computes but a run."""

    def __init__(self):
        super().__init__()
        self.head = L.Dense(2)

    def call(self, inputs):
        return self.head(inputs)


def learning(model):
    return {each.layer: each.quantizer for each in quantizers_of(model) if each.target == "weights"}


def widths_of(model):
    return {name: quantizer.specification.grid.num_bits for name, quantizer in learning(model).items()}


def attend(model, **attention):
    """Give layers the attention of 8, 4 and 2 bits."""
    for name, values in attention.items():
        quantizer = learning(model)[name]
        found = dict(zip((8, 4, 2), values, strict=True))
        quantizer.write_variable("attention", np.float32([found[bits] for bits in quantizer.widths]))


def compiled(model, **options):
    mse, budget = keras.losses.MeanSquaredError(), tq.Budget(weight_bytes=8)
    optimizer = keras.optimizers.SGD(0.05)
    model.compile(optimizer, lambda y, given: mse(y, given) + tq.budget_regularizer(model, budget), **options)
    return model


def train(model, network, epochs):
    """Two steps each."""
    callbacks = [tq.QuantizationScheduleCallback()]
    model.fit(ROWS, network(ROWS), batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize(
    "method", ["power_of_two", *(pytest.param(each, marks=pytest.mark.long) for each in ("symmetric", "uniform"))]
)
def test_training_begins_with_a_mixture_and_ends_with_the_deployed_network(method, tmp_path):
    network, _, model = prepared(small, ROWS, method=method, num_bits=4)
    fixed = tq.prepare(network, tq.Recipe({"method": method, "num_bits": 4}, {"num_bits": 8}), [ROWS], verbose=False)
    np.testing.assert_array_equal(model(ROWS), fixed(ROWS))
    wrapper = next(layer for layer in model.layers if layer.name == "hidden")
    ((_, weight, quantizer),) = wrapper.get_weights_vars()
    each = [candidate(full_precision(weight)) for candidate in quantizer.candidates]
    np.testing.assert_allclose(quantizer(full_precision(weight), True), sum(each) / 3, rtol=1e-5, atol=1e-6)
    how = {"jit_compile": False, "run_eagerly": method != "power_of_two"}  # one is enough, and tracing takes long
    train(compiled(model, **how), network, 2)
    model.save_weights(tmp_path / "model.weights.h5")
    train(model, network, 2)
    deployed = tq.convert(model)
    np.testing.assert_array_equal(model(ROWS), deployed(ROWS))
    np.testing.assert_array_equal(model(ROWS, training=True), deployed(ROWS))
    resumed = compiled(prepared(small, ROWS, method=method, num_bits=4)[2], **how)
    resumed.load_weights(tmp_path / "model.weights.h5")
    train(resumed, network, 2)
    assert all(map(np.array_equal, resumed.get_weights(), model.get_weights()))


def test_candidates_learn_by_the_gradient_rules_of_one_width():
    model = prepared(small, ROWS, method="symmetric", threshold_domain="log2", ewgs=0.5)[2]
    ((_, weight, quantizer),) = model.get_layer("hidden").get_weights_vars()
    weight = full_precision(weight)
    g = tf.reshape(tf.linspace(-1.0, 1.0, tf.size(weight)), weight.shape)
    learned = [weight, *(stored(each.get_quantizer_variable("threshold")) for each in quantizer.candidates)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weight)
        mixture = quantizer(weight, True)
        each = sum(candidate(weight) for candidate in quantizer.candidates) / 3
    of_mixture = tape.gradient(mixture, learned, g)
    for one, other in zip(of_mixture, tape.gradient(each, learned, g), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert np.mean(of_mixture[0] != g) > 0.9


def test_the_regularizer_is_the_expected_excess_and_moves_attention_alone():
    _, _, model = prepared()
    attend(model, first=(0.3, 0.0, -0.2))
    tq.advance_schedules(model, 4)
    shares = np.exp(np.array([0.3, 0.0, -0.2]) / 0.1)
    one = shares @ [8, 4, 2] / shares.sum()
    with tf.GradientTape() as tape:
        found = tf.function(lambda: tq.budget_regularizer(model, tq.Budget(weight_bytes=300)))()
    np.testing.assert_allclose(found, (216 * one + (576 + 40) * 14 / 3) / 8 / 300 - 1, rtol=1e-5)
    gradients = tape.gradient(found, list(map(stored, model.trainable_variables)))
    names = [each.name for each, g in zip(model.trainable_variables, gradients, strict=True) if g is not None]
    assert len(names) == 3
    assert all("attention" in name for name in names)
    assert tq.budget_regularizer(model, tq.Budget(weight_bytes=900)) == 0
    tq.advance_schedules(model, 9)
    found = tq.budget_regularizer(model, tq.Budget(weight_bytes=416))
    np.testing.assert_allclose(found, 1, rtol=1e-6)  # 8 bits everywhere, for certain


BUDGETS = {
    "bytes": (tq.Budget(weight_bytes=300), lambda name, bits: SIZES[name] * bits / 8),
    "bit operations": (tq.Budget(bit_operations=1.5e6), lambda name, bits: WORK[name] * bits * 8),
    "latency": (tq.Budget(latency=2400, latency_table=LATENCY), lambda name, bits: SIZES[name] * bits),
}


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_likeliest_widths_within_a_budget_make_a_recipe_that_reads_as_it_was_written(kind, tmp_path):
    budget, cost = BUDGETS[kind]
    network, recipe, model = prepared()
    attend(model, first=(1, 0.9, 0), second=(2, 1.9, 0), head=(1, 0, 0))
    spent = tq.fit_budget(model, budget)
    found = widths_of(model)
    assert found == {"first": 4, "second": 2, "head": 8} if kind == "bytes" else len(set(found.values())) > 1
    assert spent == sum(cost(name, bits) for name, bits in found.items()) <= budget.amount
    assert tq.fit_budget(model, budget) == spent
    assert widths_of(model) == found
    learned = tq.learned_recipe(model, recipe)
    learned.to_file(tmp_path / "learned.toml")
    assert tq.Recipe.from_file(tmp_path / "learned.toml") == learned
    again = tq.prepare(network, learned, [X], verbose=False)
    assert widths_of(again) == found
    assert {type(each).__name__ for each in learning(again).values()} == {"LSQSymmetricWeightsTrainableQuantizer"}
    np.testing.assert_array_equal(again(X), model(X))


def test_what_cannot_be_learned_is_refused(tmp_path):
    network, _, model = prepared()
    prepared(bits_candidates=[2, 8])[2].save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"quantizer of 'kernel' must be as in the saved state \(num_bits \[8, 2"):
        model.load_weights(tmp_path / "other.weights.h5")
    fixed = tq.prepare(network, tq.Recipe({"num_bits": 8}), verbose=False)
    model.save(tmp_path / "model.keras")
    restored = tq.keras_load_quantized_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(X), model(X))
    bytes_, partial = tq.Budget(weight_bytes=300), {"first": {2: 1.0, 8: 3.0}}
    python, work = InPython(), tq.Budget(bit_operations=9e3)
    python(ROWS)
    without_shapes = tq.prepare(python, tq.Recipe(DQA), verbose=False)
    with_shapes = tq.prepare(small(), tq.Recipe(DQA), verbose=False)
    assert tq.fit_budget(with_shapes, work) == 20 * 32 * 8
    for action, told in (
        (lambda: tq.fit_budget(without_shapes, work), "model must be prepared with data, for bit operations"),
        (lambda: tq.budget_regularizer(fixed, bytes_), "budget_regularizer: model must be one that learns widths"),
        (lambda: tq.fit_budget(model, 300), "fit_budget: budget must be a Budget, got 300"),
        (lambda: tq.fit_budget(model, tq.Budget(weight_bytes=200)), "weight_bytes must be at least 208"),
        (lambda: tq.fit_budget(model, tq.Budget(latency=9, latency_table=partial)), "one with a time for 4, got"),
        (lambda: tq.budget_regularizer(restored, bytes_), "must be known to prepare, got .* not loaded from a file"),
        (lambda: tq.learned_recipe(model, DQA), "learned_recipe: recipe must be a Recipe"),
        (lambda: tq.reconstruct(model, [X]), "quantizers of weights must be of one width"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            action()
