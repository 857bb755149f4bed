"""Channels that are scaled from one layer into the next: the same network, with weights that quantize better."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_keras.inventory import quantizers_of

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 8, 8, 2)).astype("float32")
PER_TENSOR = tq.Recipe({"num_bits": 4, "granularity": "per_tensor"}, {"num_bits": 8})


def uneven():
    keras.utils.set_random_seed(0)
    first, norm = L.Conv2D(8, 3, use_bias=False, name="first"), L.BatchNormalization()
    layers = [keras.Input((8, 8, 2)), first, norm, L.ReLU()]
    layers += [L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")]
    layers += [L.Conv2D(8, 1, groups=2, name="grouped"), L.LeakyReLU(), L.Conv2D(4, 1, name="pointwise"), L.ReLU(6.0)]
    layers += [L.Conv2D(4, 1, name="last"), L.Flatten(), L.Dense(6, "relu", name="hidden"), L.Dropout(0.5)]
    network = keras.Sequential([*layers, L.Dense(5, "tanh", name="bounded"), L.Dense(3, name="head")])
    norm.moving_variance.assign(np.logspace(0, 3, 8, base=2))
    hidden, bounded = (network.get_layer(name) for name in ("hidden", "bounded"))
    scales = np.logspace(-1, 1, 6, base=8, dtype="float32")
    hidden.kernel.assign(np.array(hidden.kernel) * scales)
    bounded.kernel.assign(np.array(bounded.kernel) / scales[:, None])
    return network


def prepared(network, equalize):
    return tq.prepare(network, PER_TENSOR, [X], fold_batch_norm=True, equalize=equalize, verbose=False)


def in_float(model):
    wrappers = [each for each in model._flatten_layers() if isinstance(each, tq.KerasTrainableQuantizationWrapper)]
    with quantizers_set_aside([each.quantizer for each in quantizers_of(model)], wrappers):
        return np.array(model(X))


def error(model, network):
    return float(np.sum((model(X) - network(X)) ** 2) / np.sum(network(X) ** 2))


def test_the_float_network_is_the_same_to_the_bit_and_quantizes_better():
    network = uneven()
    kept = network.get_weights()
    plain, equalized = prepared(network, False), prepared(network, True)
    np.testing.assert_array_equal(in_float(equalized), in_float(plain))
    assert error(equalized, network) < 0.8 * error(plain, network)
    np.testing.assert_array_equal(tq.convert(equalized)(X), equalized(X))
    assert all(np.array_equal(value, before) for value, before in zip(network.get_weights(), kept, strict=True))


def test_pairs_are_layers_of_one_kind_with_nothing_bounded_between_them():
    rows = tq.summary(prepared(uneven(), True)).rows
    pairs = {row.layer: row.reason.partition("equalized with ")[2].partition(";")[0] for row in rows}
    found = {layer: other for layer, other in pairs.items() if other}
    assert found == {"first": "depthwise", "depthwise": "grouped", "grouped": "pointwise", "hidden": "bounded"}


def test_ranges_of_a_pair_are_alike():
    equalized = prepared(uneven(), True)
    layers = [equalized.get_layer(name).layer for name in ("hidden", "bounded")]
    before, after = (np.abs(np.array(layer.kernel)) for layer in layers)
    ratio = before.max(0) / after.max(1)
    assert np.all((ratio >= 0.5) & (ratio <= 2))


@pytest.mark.parametrize("reader", ["sum", "output"])
def test_a_layer_with_another_reader_stays(reader):
    given = keras.Input((8, 8, 2))
    one, other = L.Conv2D(2, 1, name="one"), L.Conv2D(2, 1, name="other")
    y = one(given)
    results = L.Add()([y, other(y)]) if reader == "sum" else [y, other(y)]
    model = tq.prepare(keras.Model(given, results), PER_TENSOR, [X], equalize=True, verbose=False)
    np.testing.assert_array_equal(np.array(model.get_layer("one").layer.kernel), np.array(one.kernel))
    assert not any("equalized" in row.reason for row in tq.summary(model).rows)
