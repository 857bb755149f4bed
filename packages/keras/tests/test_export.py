"""Converted models in files, and what the files compute."""

import re

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, outputs

keras = tf.keras


def deployed(name="residual", bits=8, method="power_of_two"):
    keras.utils.set_random_seed(0)
    build, inputs = NETWORKS[name]
    recipe = tq.Recipe({"num_bits": bits, "method": method}, {"num_bits": bits, "method": method})
    data = [tuple(inputs) if isinstance(inputs, list) else inputs]
    return tq.convert(tq.prepare(build(), recipe, data, verbose=False)), data[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_keras_file_is_identical(name, tmp_path):
    model, inputs = deployed(name, bits=4)
    assert tq.export(model, tmp_path / "model.keras", inputs).identical
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    model, inputs = deployed(name, bits=4)
    found = tq.export(model, tmp_path / "model", inputs)
    # a graph fuses what runs one by one otherwise: last bits, which ties turn into steps
    assert found.differing <= 0.2 * found.elements, str(found)
    assert (tmp_path / "model" / "saved_model.pb").exists()
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.signatures["serving_default"] is not None


def test_a_saved_model_takes_other_batches(tmp_path):
    model, inputs = deployed()
    tq.export(model, tmp_path / "model", inputs)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.serve(IMAGES[:2]).numpy().shape == outputs(model, IMAGES[:2])[0].shape


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
@pytest.mark.parametrize("name", ["residual", "chain", "shared", "vision transformer"])
def test_eight_bits_in_tflite(name, method, tmp_path):
    model, inputs = deployed(name, method=method)
    found = tq.export(model, tmp_path / "model.tflite", inputs)
    scale = max(np.abs(array).max() for array in outputs(model, inputs))
    assert found.largest <= 0.1 * scale, str(found)
    interpreter = tf.lite.Interpreter(model_path=str(tmp_path / "model.tflite"))
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert np.int8 in kinds or np.uint8 in kinds


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    model, inputs = deployed()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    with pytest.raises(tq.QuantizerError, match="a folder of other things is not replaced"):
        tq.export(model, tmp_path / "results", inputs)
    assert (tmp_path / "results" / "notes.txt").read_text() == "mine"


def test_a_file_gives_way_to_a_saved_model(tmp_path):
    model, inputs = deployed()
    (tmp_path / "model").write_text("before")
    tq.export(model, tmp_path / "model", inputs)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "saved_model.pb").exists()


def test_an_older_file_is_replaced(tmp_path):
    model, inputs = deployed()
    for _ in range(2):
        tq.export(model, tmp_path / "model", inputs)
        tq.export(model, tmp_path / "model.keras", inputs)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "model.keras"]


MISTAKES = {
    "another ending": ("residual", 8, "model.onnx", IMAGES, "that of a .keras, .tflite or .c file, or a folder"),
    "4 bits in tflite": (
        "residual",
        4,
        "model.tflite",
        IMAGES,
        "must be of 8 bits in a .tflite file, got 4; its",
    ),
    "other inputs": ("residual", 8, "model.keras", ROWS, "a batch that the model takes, got 'float32 array of shape"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained_and_nothing_is_written(mistake, tmp_path):
    name, bits, file, inputs, text = MISTAKES[mistake]
    model, _ = deployed(name, bits)
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        tq.export(model, tmp_path / file, inputs)
    assert not list(tmp_path.iterdir())


def test_a_trained_model_must_be_converted_first(tmp_path):
    model = tq.prepare(NETWORKS["residual"][0](), tq.Recipe.preset("mixed_w4a8"), [IMAGES], verbose=False)
    with pytest.raises(tq.QuantizerError, match=r"pass convert\(model\)"):
        tq.export(model, tmp_path / "model.keras", IMAGES)


def _named():
    one, two = keras.Input((4,), name="image"), keras.Input((None,), name="meta")
    x = keras.layers.Concatenate()([one, keras.layers.Reshape((3,))(two)])
    outputs = {"scores": keras.layers.Dense(1)(x), "boxes": keras.layers.Dense(2)(x), "id": keras.layers.Dense(3)(x)}
    batch = {"image": np.ones((2, 4), "float32"), "meta": np.ones((2, 3), "float32")}
    return tq.convert(
        tq.prepare(keras.Model({"image": one, "meta": two}, outputs), tq.Recipe({}, {}), [batch], verbose=False)
    ), batch


@pytest.mark.parametrize("sizes, meta", [("free", [None, None]), ("batch", [None, 3]), ("fixed", [2, 3])])
def test_inputs_and_outputs_of_a_saved_model_keep_their_names(sizes, meta, tmp_path):
    model, batch = _named()
    assert tq.export(model, tmp_path / "model", batch, sizes=sizes).identical
    signature = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    assert {name: spec.shape.as_list() for name, spec in specs.items()} == {"image": [meta[0], 4], "meta": meta}
    assert set(signature.structured_outputs) == {"boxes", "scores", "id"}


def test_outputs_of_a_tflite_file_are_compared_by_their_names(tmp_path):
    model, batch = _named()
    found = tq.export(model, tmp_path / "model.tflite", batch)
    assert all(each.largest <= 0.05 for each in found.outputs), str(found)  # ties alone


def test_a_recurrent_network_of_a_fixed_batch_reaches_tflite(tmp_path):
    sequences = np.random.default_rng(0).standard_normal((1, 5, 8)).astype("float32")
    given = keras.Input((5, 8))
    network = keras.Model(given, keras.layers.Dense(2)(keras.layers.LSTM(4)(given)))
    model = tq.convert(tq.prepare(network, tq.Recipe({}, {}), [sequences], verbose=False))
    with pytest.raises(tq.QuantizerError, match="one that TensorFlow can write"):
        tq.export(model, tmp_path / "model.tflite", sequences)
    assert tq.export(model, tmp_path / "model.tflite", sequences, sizes="fixed").elements == 2


def test_an_unknown_choice_of_sizes_is_refused(tmp_path):
    model, inputs = deployed()
    with pytest.raises(tq.QuantizerError, match="sizes must be one of 'free', 'batch', 'fixed', got 'all'"):
        tq.export(model, tmp_path / "model", inputs, sizes="all")
