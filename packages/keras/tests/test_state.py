"""Files of weights and checkpoints hold the structure of quantizers, and models of another do not take them."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import KERAS_3, keras

L = keras.layers
BOTH = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
ONES = np.abs(BOTH)
FORMATS = ["weights file", "checkpoint"]


def prepared(data=BOTH, **weights):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), L.Dense(8, "swish"), L.Dense(2)])
    return tq.prepare(network, tq.Recipe({"num_bits": 4, **weights}, {"num_bits": 4}), [data], verbose=False)


def saved(model, folder, form):
    if form == "checkpoint":
        return tf.train.Checkpoint(model=model).save(f"{folder}/checkpoint")
    model.save_weights(f"{folder}/model.weights.h5")
    return f"{folder}/model.weights.h5"


def load(model, path, form):
    if form == "checkpoint":
        tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched()
    else:
        model.load_weights(path)


def moved(model):
    """As after some training."""
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(weight * 1.75)
    return model


@pytest.mark.parametrize("form", FORMATS)
def test_every_weight_and_threshold_comes_back(form, tmp_path):
    trained, fresh = moved(prepared()), prepared()
    load(fresh, saved(trained, tmp_path, form), form)
    assert all(map(np.array_equal, fresh.get_weights(), trained.get_weights()))
    np.testing.assert_array_equal(fresh(BOTH), trained(BOTH))


STRUCTURES = [
    (ONES, {}),
    (BOTH, {"num_bits": 5}),
    (BOTH, {"method": "symmetric"}),
    (BOTH, {"threshold_domain": "log2"}),
    (BOTH, {"oscillations": {}}),
    (BOTH, {"training_method": "DQA", "bits_candidates": [4, 8], "schedule": {"ramp": 9}}),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("data, weights", STRUCTURES)
def test_another_structure_is_refused(form, data, weights, tmp_path):
    path = saved(prepared(data, **weights), tmp_path, form)
    with pytest.raises((tq.QuantizerError, ValueError), match=r"quantizer of '(out|kernel)' must be as in the saved"):
        load(prepared(), path, form)


def test_a_state_of_thresholds_is_refused_for_their_logarithms(tmp_path):
    path = saved(prepared(), tmp_path, "weights file")
    message = r"\(threshold_domain linear\), got threshold_domain log2"
    with pytest.raises((tq.QuantizerError, ValueError), match=rf"of 'kernel' must be as in the saved state {message}"):
        load(prepared(threshold_domain="log2"), path, "weights file")


class Shifting(keras.Model):
    """Its call stays Python."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x, training=None):
        return self.dense(x) + 1.0 if training else self.dense(x)


def shifting():
    keras.utils.set_random_seed(0)
    network = Shifting()
    network(BOTH)
    return tq.prepare(network, tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [BOTH], verbose=False)


@pytest.mark.parametrize("make", [prepared, shifting])
def test_weights_of_a_prepared_model_are_not_those_of_a_converted_one(make, tmp_path):
    model = make()
    deployed = tq.convert(make())
    for source, other in ((model, deployed), (deployed, model)):
        with pytest.raises((tq.QuantizerError, ValueError), match=r"as those of the layer|expected 1 variables"):
            load(other, saved(source, tmp_path, "weights file"), "weights file")
    load(deployed, saved(tq.convert(model), tmp_path, "weights file"), "weights file")
    np.testing.assert_array_equal(deployed(BOTH), model(BOTH))


def test_a_prepared_model_becomes_a_saved_model_of_tensorflow(tmp_path):
    model = moved(prepared())
    tf.saved_model.save(model, f"{tmp_path}/saved")
    serve = tf.saved_model.load(f"{tmp_path}/saved").signatures["serving_default"]
    (result,) = serve(tf.constant(BOTH)).values()
    np.testing.assert_array_equal(result, model(BOTH))


if not KERAS_3:  # Keras 3 writes models to .keras files

    def _layers():
        sequence = keras.Input((5, 4))
        attended = L.MultiHeadAttention(2, 3)(sequence, sequence)
        recurrent = L.Bidirectional(L.LSTM(3))(L.LSTM(4, return_sequences=True)(attended))
        return keras.Model(sequence, keras.Sequential([L.Dense(4), L.Dense(2)])(recurrent)), (5, 4)

    def test_a_fitted_model_goes_through_hdf5(tmp_path):
        network, shape = _layers()
        x = np.random.default_rng(0).standard_normal((4, *shape)).astype("float32")
        model = tq.prepare(network, tq.Recipe({}, {}), [x], verbose=False)
        model.compile("adam", "mse")
        checkpoint = keras.callbacks.ModelCheckpoint(f"{tmp_path}/best.h5")
        model.fit(x, np.zeros((4, 2)), verbose=0, callbacks=[checkpoint])
        again = tq.keras_load_quantized_model(f"{tmp_path}/best.h5")
        np.testing.assert_array_equal(again(x), model(x))
