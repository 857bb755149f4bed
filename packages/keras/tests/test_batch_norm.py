"""Statistics of batch norms are those of the quantized network, and nothing else changes."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((48, 4)).astype("float32")


def prepared():
    keras.utils.set_random_seed(0)
    given = keras.Input((4,))
    x = L.Dropout(0.5)(L.BatchNormalization(name="norm")(L.Dense(8)(given)))
    network = keras.Model(given, L.Dense(2)(x))
    return tq.prepare(network, tq.Recipe({"num_bits": 2}, {"num_bits": 4}), [X], verbose=False)


def test_statistics_are_those_of_the_quantized_layer():
    model = prepared()
    norm, before = model.get_layer("norm"), model.get_weights()
    into = keras.Model(model.input, norm.input)
    assert tq.reestimate_batch_norm(model, np.split(X, 3)) is model
    seen = [into(part, training=False).numpy() for part in np.split(X, 3)]
    np.testing.assert_allclose(norm.moving_mean, np.mean([each.mean(0) for each in seen], 0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([each.var(0) for each in seen], 0), rtol=1e-3)
    assert norm.momentum == 0.99
    assert "call" not in vars(norm)
    changed = [not np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True)]
    assert sum(changed) == 2
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))


def test_a_batch_that_does_not_fit_leaves_the_norm_as_it_was():
    model = prepared()
    with pytest.raises(tq.QuantizerError, match="reestimate_batch_norm: data must be batches that the model takes"):
        tq.reestimate_batch_norm(model, [X[:, :3]])
    assert model.get_layer("norm").momentum == 0.99
    assert "call" not in vars(model.get_layer("norm"))


@pytest.mark.parametrize("data", [[], [X]])
def test_without_norms_or_data_it_is_refused(data):
    model = prepared() if not data else keras.Sequential([keras.Input((4,)), L.Dense(2)])
    with pytest.raises(tq.QuantizerError, match=r"reestimate_batch_norm: (data|model) must be"):
        tq.reestimate_batch_norm(model, data)
