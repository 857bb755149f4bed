"""Layers that were reconstructed give more of what they gave in float, and are deployed as they are."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import full_precision

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((64, 6, 6, 2)).astype("float32")


def prepared(weights=None, activations=None):
    keras.utils.set_random_seed(0)
    given = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, activation="relu")(given)
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    network = keras.Model(given, L.Dense(3)(L.Flatten()(x)))
    recipe = tq.Recipe({"num_bits": 2, **(weights or {})}, activations or {"num_bits": 8})
    return network, tq.prepare(network, recipe, [X], verbose=False)


def error(model, network):
    return float(np.sum((model(X) - network(X)) ** 2) / np.sum(network(X) ** 2))


@pytest.mark.parametrize(
    "method", ["power_of_two", *(pytest.param(each, marks=pytest.mark.long) for each in ("symmetric", "uniform"))]
)
def test_the_error_falls_and_weights_lie_on_levels(method):
    network, model = prepared({"method": method})
    before = error(model, network)
    kernels = [(w, q) for each in model.layers for _, w, q in getattr(each, "get_weights_vars", list)()]
    floats = [np.array(weight) for weight, _ in kernels]
    others = [(w, np.array(w)) for w in model.weights if all(w is not weight for weight, _ in kernels)]
    assert tq.reconstruct(model, [X[:32], X[32:]], steps=60, learning_rate=0.1) is model
    assert error(model, network) < 0.8 * before
    kept = []
    for index, (weight, quantizer) in enumerate(kernels):
        on_levels = np.array_equal(quantizer(full_precision(weight), False), full_precision(weight))
        kept.append(np.array_equal(full_precision(weight), floats[index]))
        assert on_levels != kept[-1]
    assert not all(kept)
    assert all(np.array_equal(np.array(weight), value) for weight, value in others)
    assert len(others) == len(model.weights) - 3
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))


def with_block():
    keras.utils.set_random_seed(0)
    inner = keras.Input((4, 4, 4))
    depthwise = L.DepthwiseConv2D(3, activation="relu", name="depthwise")
    block = keras.Model(inner, L.Conv2D(4, 1, name="pointwise")(depthwise(inner)), name="block")
    given = keras.Input((6, 6, 2))
    x = block(L.Conv2D(4, 3, activation="relu", name="conv")(given))
    network = keras.Model(given, L.Dense(3, name="head")(L.Flatten()(x)))
    return network, tq.prepare(network, tq.Recipe({"num_bits": 2}, {"num_bits": 8}), [X], verbose=False)


def variables(model):
    return {name: (w, full_precision(w)) for name, w in named_weights(model)}


def named_weights(model):
    for layer in model._flatten_layers():
        if isinstance(layer, tq.KerasTrainableQuantizationWrapper):
            for key, weight, _ in layer.get_weights_vars():
                yield f"{layer.name}.{key}", weight
            yield f"{layer.name}.bias", layer.layer.bias


def moved(before):
    return {name for name, (weight, value) in before.items() if not np.array_equal(full_precision(weight), value)}


def test_the_layers_of_a_block_learn_together():
    network, model = with_block()
    before, kept = error(model, network), variables(model)
    others = [(w, np.array(w)) for w in model.weights if "threshold" in w.name]
    assert tq.reconstruct(model, [X[:32], X[32:]], steps=60, learning_rate=0.05, blocks=["bl*"]) is model
    assert error(model, network) < 0.8 * before
    learned = moved(kept)
    assert {"depthwise.bias", "pointwise.kernel", "pointwise.bias"} < learned
    assert not {"conv.bias", "head.bias"} & learned
    assert others
    assert all(np.array_equal(np.array(weight), value) for weight, value in others)
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))


def test_a_layer_learns_like_a_block():
    network, model = with_block()
    before, kept = error(model, network), variables(model)
    tq.reconstruct(model, [X[:32], X[32:]], steps=60, learning_rate=0.05, blocks=["conv", "block", "head"])
    assert error(model, network) < 0.8 * before
    assert {"head.kernel", "head.bias"} < moved(kept)
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))


def test_a_block_that_does_no_better_stays():
    _, model = with_block()
    kept = variables(model.get_layer("block"))
    tq.reconstruct(model, [X], steps=5, learning_rate=0.99, blocks=["block"])
    assert not moved(kept)


def test_blocks_that_cannot_be_are_refused():
    _, model = with_block()
    with pytest.raises(tq.QuantizerError, match="blocks must be a sequence of names, got 'block'"):
        tq.reconstruct(model, [X], blocks="block")
    with pytest.raises(tq.QuantizerError, match=r"blocks must be names of layers with .* got 'block/relu'"):
        tq.reconstruct(model, [X], blocks=["block/relu"])
    block = keras.Sequential([keras.Input((6,)), L.Dense(6)], name="block")
    given = keras.Input((6,))
    twice = keras.Model(given, block(block(L.Dense(6, name="first")(given))))
    model = tq.prepare(twice, tq.Recipe({"num_bits": 2}, {"num_bits": 8}), [X[:, 0, 0].repeat(3, -1)], verbose=False)
    kept = variables(model)
    with pytest.raises(tq.QuantizerError, match="blocks must be modules that a batch calls once, got 'block'"):
        tq.reconstruct(model, [X[:, 0, 0].repeat(3, -1)], steps=20, learning_rate=0.2, blocks=["block"])
    assert not moved(kept)
    lut = tq.LayerRule(name="block", weights={"method": "lut_power_of_two"})
    network = keras.Sequential([keras.Input((6,)), L.Dense(6, name="first"), L.Dense(6, name="block")])
    model = tq.prepare(network, tq.Recipe({"num_bits": 2}, rules=(lut,)), verbose=False)
    kept = variables(model)
    with pytest.raises(tq.QuantizerError, match="quantizers of weights must be of evenly spaced levels"):
        tq.reconstruct(model, [X[:, 0, 0].repeat(3, -1)], steps=20, learning_rate=0.2, blocks=["block"])
    assert not moved(kept)


def test_what_cannot_be_reconstructed_is_refused():
    network, model = prepared({"bias_correction": True})
    with pytest.raises(tq.QuantizerError, match="model must be one whose biases are those of the float model"):
        tq.reconstruct(model, [X])
    with pytest.raises(tq.QuantizerError, match="reconstruct: model must be one with quantized weights"):
        tq.reconstruct(network, [X])
    model = prepared()[1]
    with pytest.raises(tq.QuantizerError, match="reconstruct: data must be batches that the model takes"):
        tq.reconstruct(model, [X[..., :1]], steps=5)
    with pytest.raises(tq.QuantizerError, match="reconstruct: data must be at least one batch"):
        tq.reconstruct(model, [], steps=5)


def test_weights_that_training_froze_are_refused():
    model = prepared({"oscillations": {"momentum": 0.25, "freeze_above": 0.2}})[1]
    quantizer = model.layers[-2].weights_quantizers["kernel"]
    moves = quantizer.get_quantizer_variable("moves")
    frozen = np.zeros(moves.shape, np.int32)
    frozen[0, 0] = 4 * 1 + 2  # level 1, frozen
    moves.assign(frozen)
    with pytest.raises(tq.QuantizerError, match="weights must be of weights that can all move, got '"):
        tq.reconstruct(model, [X], steps=5)
