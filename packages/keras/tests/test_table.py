"""Look-up tables learn with the network, and deploy as they learned."""

from functools import cache

import numpy as np
import pytest
import trainable_quantizers_keras as tq
from mct_quantizers import keras_quantizers
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import keras

X = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype(np.float32)
METHODS = {
    "weights": ("lut_power_of_two", "power_of_two"),
    "symmetric": ("lut_symmetric", "power_of_two"),
    "both": ("lut_power_of_two", "lut_power_of_two"),
}
every = pytest.mark.parametrize("which", METHODS)


def prepared(which, data):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, name="conv"), keras.layers.ReLU(name="relu"), keras.layers.Flatten(name="flat")]
    network = keras.Sequential([keras.Input((6, 6, 2), name="input"), *layers, keras.layers.Dense(3, name="head")])
    weights, activations = METHODS[which]
    recipe = tq.Recipe({"method": weights, "num_bits": 3}, {"method": activations, "num_bits": 5})
    return tq.prepare(network, recipe, [data], verbose=False)


@cache
def trained(which):
    model = prepared(which, X)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, np.zeros((16, 3)), epochs=4, verbose=0)
    return model


def tables(model):
    return [each.values["table"] for each in quantizers_of(model) if "table" in each.values]


@every
def test_tables_learn_and_deploy_as_they_learned(which):
    model, start = trained(which), prepared(which, X)
    assert len(tables(model)) == (5 if which == "both" else 2)
    assert not any(np.array_equal(*pair) for pair in zip(tables(model), tables(start), strict=True))
    deployed = tq.convert(model)
    assert np.array_equal(deployed(X), model(X))
    kind = "Symmetric" if which == "symmetric" else "POT"
    for name in ("conv", "head"):
        (quantizer,) = deployed.get_layer(name).weights_quantizers.values()
        assert type(quantizer) is getattr(keras_quantizers, f"WeightsLUT{kind}InferableQuantizer")
        assert quantizer.lut_values == sorted(quantizer.lut_values)


@every
def test_tables_come_back_from_saved_models_and_from_a_parameter_file(which, tmp_path):
    model, deployed = trained(which), tq.convert(trained(which))
    model.save(tmp_path / "trained.keras")
    deployed.save(tmp_path / "deployed.keras")
    assert np.array_equal(tq.keras_load_quantized_model(tmp_path / "trained.keras")(X), model(X))
    assert np.array_equal(keras.models.load_model(tmp_path / "deployed.keras")(X), deployed(X))
    tq.save_quantizers(model, tmp_path / "quantizers")
    fresh = prepared(which, 2 * X)
    tq.load_quantizers(fresh, tmp_path / "quantizers")
    assert all(np.array_equal(*pair) for pair in zip(tables(fresh), tables(model), strict=True))


def test_weights_with_power_of_two_tables_are_integers():
    deployed = tq.convert(trained("weights"))
    assert (tq.to_integer(deployed, X).run(X) == deployed(X).numpy()).all()
    with pytest.raises(tq.QuantizerError, match="operations that integer programs know"):
        tq.to_integer(tq.convert(trained("both")), X)


def test_layers_with_tables_are_not_reconstructed():
    with pytest.raises(tq.QuantizerError, match="of evenly spaced levels, got 'LSQTableWeightsTrainableQuantizer'"):
        tq.reconstruct(prepared("weights", X), [X], steps=5)


def test_a_table_has_no_limit_of_sums():
    found = prepared("weights", X).get_layer("conv")
    (quantizer,) = found.weights_quantizers.values()
    fresh = type(quantizer)(quantizer.quantization_config)
    grid = tq.AccumulatorGrid(found.accumulator.inputs, 16)
    with pytest.raises(tq.QuantizerError, match="a limit takes no table"):
        tq.KerasTrainableQuantizationWrapper(keras.layers.Conv2D(4, 3), {"kernel": fresh}, accumulator=grid)
