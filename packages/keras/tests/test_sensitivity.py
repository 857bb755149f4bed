"""The quantizer that does most harm comes first, and the model stays as it is."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq

keras = tf.keras
X = np.random.default_rng(0).standard_normal((32, 4)).astype("float32")


def prepared():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(16, "relu", name="coarse"), keras.layers.Dense(3)]
    network = keras.Sequential([keras.Input((4,)), *layers])
    coarse = tq.LayerRule(name="coarse", weights={"num_bits": 2})
    recipe = tq.Recipe(tq.WeightsScheme(num_bits=8), tq.ActivationsScheme(num_bits=8), rules=[coarse])
    return network, tq.prepare(network, recipe, [X], verbose=False)


def test_the_quantizer_with_the_fewest_bits_costs_most():
    network, model = prepared()
    before = model(X).numpy()
    found = tq.sensitivity(model, [X])
    assert (found.quantizers[0].layer, found.quantizers[0].attribute) == ("coarse", "kernel")
    assert len(found.quantizers) == 3 + 4
    np.testing.assert_array_equal(model(X), before)
    expected = np.sum((before - network(X)) ** 2) / np.sum(network(X) ** 2)
    assert found.error == pytest.approx(float(expected), rel=0.05)  # biases of the copy are corrected
    assert tq.report(model, [X], sensitivity=found).sensitivity is found


def test_one_batch_or_many_are_the_same():
    _, model = prepared()
    whole, parts = tq.sensitivity(model, [X]), tq.sensitivity(model, np.split(X, 4))
    assert [row.layer for row in whole.quantizers] == [row.layer for row in parts.quantizers]
    assert whole.error == pytest.approx(parts.error)


@pytest.mark.parametrize("model", [keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), 5])
def test_a_model_without_quantizers_is_refused(model):
    with pytest.raises(tq.QuantizerError, match="sensitivity: model must be one that holds trainable quantizers"):
        tq.sensitivity(model, [X])
