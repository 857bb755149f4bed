"""Converted models in files, and what the files compute."""

import re
import resource
import warnings
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, SHOWN, outputs

keras = tf.keras
L = keras.layers


@cache
def deployed(name="residual", bits=8, method="power_of_two"):
    """Writing files leaves a model as it is: one serves several tests."""
    keras.utils.set_random_seed(0)
    build, inputs = NETWORKS[name]
    recipe = tq.Recipe({"num_bits": bits, "method": method}, {"num_bits": bits, "method": method})
    data = [tuple(inputs) if isinstance(inputs, list) else inputs]
    return tq.convert(tq.prepare(build(), recipe, data, verbose=False)), data[0]


@pytest.mark.parametrize("name", ["residual", "inputs of two kinds", "subclassed"])
def test_a_keras_file_is_identical(name, tmp_path):
    """Of one tensor, of several, and of Python; that files of every network reload is tested where they train."""
    model, inputs = deployed(name, bits=4)
    assert tq.export(model, tmp_path / "model.keras", inputs).identical
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("name", SHOWN)
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


def kinds_of(path):
    """Types of what the operations of a .tflite file read, by name of the operation."""
    lite = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(model_path=str(path), experimental_op_resolver_type=lite)
    types = {each["index"]: np.dtype(each["dtype"]).name for each in interpreter.get_tensor_details()}
    found = {}
    for each in interpreter._get_ops_details():
        found.setdefault(each["op_name"], set()).add(tuple(types.get(index) for index in each["inputs"]))
    return found


IN_TFLITE = [
    *(("residual", method) for method in ("power_of_two", "symmetric", "uniform")),
    ("chain", "uniform"),
    ("shared", "symmetric"),
    pytest.param("vision transformer", "power_of_two", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("name", "method"), IN_TFLITE)
@pytest.mark.filterwarnings("ignore:export. the .tflite file computes in float32")
def test_eight_bits_in_tflite(name, method, tmp_path):
    model, inputs = deployed(name, method=method)
    found = tq.export(model, tmp_path / "model.tflite", inputs)
    scale = max(np.abs(array).max() for array in outputs(model, inputs))
    assert found.largest <= 0.1 * scale, str(found)
    kinds = {kind for each in kinds_of(tmp_path / "model.tflite").values() for kinds in each for kind in kinds}
    assert kinds & {"int8", "uint8"}


def every_layer():
    image = keras.Input((8, 8, 3))
    x = first = L.ReLU(6.0)(L.Conv2D(8, 3, padding="same")(image))
    x = L.ReLU()(L.DepthwiseConv2D(3, padding="same")(x))
    x = L.Concatenate()([L.Add()([first, L.Conv2D(8, 1)(x)]), first])
    x = L.GlobalAveragePooling2D()(L.MaxPooling2D()(x))
    return keras.Model(image, L.Dense(4)(L.Dense(6, "relu")(x)))


@pytest.mark.parametrize("weight_bits, bits", [(8, 8), (4, 8), (4, 4), (2, 3)])
def test_a_tflite_file_computes_on_integers(weight_bits, bits, tmp_path):
    keras.utils.set_random_seed(0)
    recipe = tq.Recipe({"num_bits": weight_bits}, {"num_bits": bits})
    model = tq.convert(tq.prepare(every_layer(), recipe, [IMAGES], verbose=False))
    found = tq.export(model, tmp_path / "model.tflite", IMAGES)
    step = model.layers[-1].activation_holder_quantizer
    step = float(np.ravel(step.max_range - np.asarray(step.min_range))[0]) / (2**bits - 1)
    scale = np.abs(outputs(model, IMAGES)[0]).max()
    assert found.largest <= max(2.001 * step, 0.1 * scale), str(found)  # ties
    kinds = kinds_of(tmp_path / "model.tflite")
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        assert kinds[name] == {("int8", "int8", "int32")}
    assert {kind for name in kinds if name != "QUANTIZE" for each in kinds[name] for kind in each} <= {"int8", "int32"}


def test_what_a_tflite_file_computes_in_float_is_said(tmp_path):
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, L.LayerNormalization()(L.Conv2D(4, 1)(image)))
    model = tq.convert(tq.prepare(network, tq.Recipe({}, {}), [IMAGES], verbose=False))
    with pytest.warns(UserWarning, match="computes in float32: .*RSQRT"):
        tq.export(model, tmp_path / "model.tflite", IMAGES)


ROUNDED = {
    "between quantized activations": ({}, tq.LayerRule(name="middle", weights=False), ("middle",)),
    "activations in float": ({}, tq.LayerRule(name="middle", weights=False, activations=False), ()),
    "tables": (
        {"num_bits": 3, "method": "lut_power_of_two"},
        tq.LayerRule(name="*", weights={}),
        ("first", "middle"),
    ),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_a_tflite_file_that_rounds_weights_says_so(case, tmp_path):
    weights, rule, expected = ROUNDED[case]
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="middle")(L.Conv2D(4, 3, activation="relu", name="first")(image))
    network = keras.Model(image, L.GlobalAveragePooling2D()(x))
    model = tq.convert(tq.prepare(network, tq.Recipe(weights, {}, rules=[rule]), [IMAGES], verbose=False))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tq.export(model, tmp_path / "model.tflite", IMAGES)
    (told,) = [str(each.message) for each in said if "rounds weights" in str(each.message)] or [""]
    assert tuple(re.findall(r"(?:bits: |, )(first|middle)(?:_\d)?/\w+", told)) == expected
    assert ("float32" in str(kinds_of(tmp_path / "model.tflite")["CONV_2D"])) == (case == "activations in float")


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
    "another suffix": ("residual", 8, "model.onnx", IMAGES, "that of a .keras, .tflite or .c file, or a folder"),
    "12 bits in tflite": (
        "residual",
        12,
        "model.tflite",
        IMAGES,
        "must be of 8 bits, or of fewer with powers of two for steps, in a .tflite file, got 12; its",
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
    with pytest.warns(UserWarning, match="computes in float32: .*WHILE"):
        assert tq.export(model, tmp_path / "model.tflite", sequences, sizes="fixed").elements == 2


def test_an_unknown_choice_of_sizes_is_refused(tmp_path):
    model, inputs = deployed()
    with pytest.raises(tq.QuantizerError, match="sizes must be one of 'free', 'batch', 'fixed', got 'all'"):
        tq.export(model, tmp_path / "model", inputs, sizes="all")


def exporting():
    model, inputs = deployed()
    return lambda path: tq.export(model, path, inputs)


def saving_parameters():
    keras.utils.set_random_seed(0)
    build, inputs = NETWORKS["residual"]
    model = tq.prepare(build(), tq.Recipe.preset("mixed_w4a8"), [inputs], verbose=False)
    return lambda path: tq.save_quantizers(model, path)


WRITERS = {
    "model.keras": exporting,
    "model": exporting,
    "model.tflite": exporting,
    "model.c": exporting,
    "parameters.safetensors": saving_parameters,
}


@contextmanager
def little_room(size=64):
    """No file may grow beyond these bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_without_room_an_older_file_stays_and_nothing_else(name, tmp_path):
    path = tmp_path / name
    path.write_text("before")
    write = WRITERS[name]()
    with pytest.raises((OSError, tq.QuantizerError)), little_room():
        write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "before"
