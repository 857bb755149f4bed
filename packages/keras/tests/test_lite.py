"""LiteRT files: integers of 8 and 16 bits, compared with the integer program operation by operation."""

import re
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES
from tensorflow.lite.tools import flatbuffer_utils

keras = tf.keras
L = keras.layers


@keras.utils.register_keras_serializable("tests")
def hard_swish(x):
    return x * tf.nn.relu6(x + 3.0) / 6.0


def products():
    """Of operations that sum products: LiteRT rounds each of them once."""
    image = keras.Input((8, 8, 3))
    x = L.ReLU(6.0, name="first")(L.Conv2D(8, 3, padding="same")(image))
    x = L.ReLU(name="second")(L.DepthwiseConv2D(3, padding="same")(x))
    x = L.AveragePooling2D(2, name="averages")(
        L.MaxPooling2D()(L.Conv2D(6, 1, bias_initializer="ones", name="third")(x))
    )
    return keras.Model(
        image, L.Dense(4, name="last")(L.Dense(7, "relu", bias_initializer="ones", name="hidden")(L.Flatten()(x)))
    )


def islands():
    image = keras.Input((8, 8, 3))
    x = first = L.Conv2D(4, 1, name="first")(image)
    x = L.Activation(hard_swish, name="swish")(L.Conv2D(4, 1, name="second")(x))
    x = L.Concatenate(name="joined")([L.Add(name="added")([first, x]), first, L.Activation("sigmoid", name="gate")(x)])
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Softmax(name="shares")(L.Dense(4, name="last")(x)))


def joins():
    """Sums, concatenations, means and sigmoids behind convolutions: each kind has a rule of its own."""
    image = keras.Input((8, 8, 3))
    first = L.Conv2D(4, 1, name="first")(image)
    x = L.ReLU(name="second")(L.DepthwiseConv2D(3, padding="same", name="depth")(first))
    x = L.ReLU(name="added_relu")(L.Add(name="added")([first, x]))
    x = L.Concatenate(name="joined")([x, first, L.Activation("sigmoid", name="gate")(x)])
    x = L.GlobalAveragePooling2D(name="mean")(L.Conv2D(6, 3, name="third")(x))
    return keras.Model(image, L.Dense(4, name="last")(x))


RULES = (("added*", "half_up"), ("joined", "half_up"), ("mean", "half_away"))
"""Of XNNPACK, where it does not round half to even."""


@cache
def prepared(build, bits, rounding, method, rules=()):
    keras.utils.set_random_seed(0)
    ties = {"rounding": rounding} if rounding else {}
    others = [tq.LayerRule(name=name, activations={"rounding": rule}) for name, rule in rules]
    recipe = tq.Recipe({"method": method}, {"num_bits": bits, "method": method, **ties}, others)
    return tq.prepare(build(), recipe, [IMAGES], verbose=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model and its file."""
    folder = tmp_path_factory.mktemp("files")

    @cache
    def write(*arguments):
        path = folder / f"{len(list(folder.iterdir()))}.tflite"
        model = prepared(*arguments)
        tq.export(tq.convert(model), path, IMAGES)
        return model, path

    return write


pytestmark = [
    pytest.mark.filterwarnings("ignore:export. the .tflite file computes in float32"),
    pytest.mark.filterwarnings("ignore:.*half_(even|away|up)"),
]


TWICE = {(8, "xnnpack"): {"second_quantized"}} if tf.__version__ < "2.16" else {}
"""Operations whose kernels round twice: depthwise convolutions, in older releases of LiteRT."""


@pytest.mark.parametrize(
    ("bits", "rounding", "kernels"),
    [(8, "half_even", "xnnpack"), (12, "half_up", "builtin"), (12, "half_up", "xnnpack")],
)
def test_sums_of_products_are_the_program_with_the_rule_of_the_kernels(bits, rounding, kernels, written):
    model, path = written(products, bits, rounding, "power_of_two")
    found = tq.verify(model, tq.LiteFile(path, kernels), [IMAGES, IMAGES[:3]])
    differing = {layer.name for layer in found.different}
    assert differing <= TWICE.get((bits, kernels), set()), str(found)
    assert found.identical or differing, str(found)
    names = ["first", "second", "third", "averages", "hidden", "last"]
    assert [layer.name for layer in found.layers][1:] == [f"{name}_quantized" for name in names]
    assert found.layers[1].elements == (len(IMAGES) + 3) * 8 * 8 * 8


def test_with_a_rule_for_each_kind_of_operation_the_file_is_the_program(written):
    model, path = written(joins, 8, "half_even", "power_of_two", RULES)
    found = tq.verify(model, path, [IMAGES, IMAGES * 2])
    assert {layer.name for layer in found.different} <= TWICE.get((8, "xnnpack"), set()), str(found)
    assert found.identical or found.different, str(found)
    assert len(found.layers) == 9
    ties = {f"{name}*" if name[-1] != "*" else name: rule for name, rule in RULES} | {"*": "half_even"}
    program = tq.to_integer(tq.convert(model), IMAGES, rounding=ties)
    assert program.rounding == {"half_even", "half_up", "half_away"}
    assert tq.verify(model, program, [IMAGES]).identical


def test_other_operations_are_named_with_their_numbers(written):
    model, path = written(islands, 8, "half_even", "power_of_two")
    found = tq.verify(model, path, [IMAGES])
    differing = [layer.name.removesuffix("_quantized") for layer in found.different]
    assert "added" in differing
    assert set(differing) <= {"swish", "gate", "added", "joined", "mean", "shares"}
    said = (
        rf"By itself, {len(differing)} of its 10 operations differ: .*added_quantized, where \d+ of 1536 differ, by up"
    )
    assert re.search(said, str(found))


def types_of(path):
    model = flatbuffer_utils.read_model(str(path))
    graph, types = model.subgraphs[0], flatbuffer_utils.schema_fb.TensorType
    names = {getattr(types, name): name for name in ("FLOAT32", "INT8", "INT16", "INT32", "INT64")}
    found = {}
    for each in graph.operators:
        kinds = found.setdefault(flatbuffer_utils.opcode_to_name(model, each.opcodeIndex), set())
        kinds.add(tuple(names[graph.tensors[at].type] for at in each.inputs))
    return found


@pytest.mark.parametrize(
    ("build", "bits", "rounding", "method", "floats"),
    [
        (products, 12, "half_up", "power_of_two", {"QUANTIZE"}),
        (islands, 15, None, "symmetric", {"QUANTIZE", "ADD", "DIV", "EXP", "MUL", "SUB", "SUM"}),
    ],
)
def test_wide_activations_make_a_file_of_16_bits_at_the_trained_steps(build, bits, rounding, method, floats, written):
    model, path = written(build, bits, rounding, method)
    kinds = types_of(path)
    assert kinds["CONV_2D"] == {("INT16", "INT8", "INT64")}
    assert {name for name, those in kinds.items() if any("FLOAT32" in each for each in those)} <= floats
    found = tq.verify(model, path, [IMAGES])
    assert len(found.layers) == (7 if build is products else 10)  # each tensor lies on the grid of its quantizer
    for layer in found.layers:
        assert layer.largest <= 2.001 * layer.scale / 2 ** (bits - 2), str(found)


def test_an_operation_that_differs_is_found_and_what_reads_it_is_not(written, tmp_path):
    _, path = written(products, 8, "half_even", "power_of_two")
    model = flatbuffer_utils.read_model(str(path))
    tensors = model.subgraphs[0].tensors
    third = next(each for each in model.subgraphs[0].operators if b"/third/" in tensors[each.outputs[0]].name)
    bias = model.buffers[tensors[third.inputs[2]].buffer]
    bias.data = (np.frombuffer(bytes(bias.data), np.int32) + 8).view(np.uint8)
    flatbuffer_utils.write_model(model, str(tmp_path / "other.tflite"))
    found = tq.verify(prepared(products, 8, "half_even", "power_of_two"), tmp_path / "other.tflite", [IMAGES])
    assert {layer.name for layer in found.different} - TWICE.get((8, "xnnpack"), set()) == {"third_quantized"}
    assert not found.identical
    with pytest.raises(
        tq.QuantizerError, match=r"verify: .* By itself, \d of its 7 operations differs?: .*third_quantized"
    ):
        found.raise_if_different()


@keras.utils.register_keras_serializable("tests")
def running_sum(x):
    return tf.cumsum(x, -1)


def test_a_network_without_a_program_is_compared_by_its_outputs(tmp_path):
    network = keras.Sequential([keras.Input((3,)), L.Activation(running_sum)])
    rows = np.float32([[1, 2, 3], [0.5, 0.25, 0]])
    model = tq.prepare(network, tq.Recipe({}, {}), [rows], verbose=False)
    tq.export(tq.convert(model), tmp_path / "model.tflite", rows)
    found = tq.verify(model, str(tmp_path / "model.tflite"), [rows])
    assert found.identical
    assert "Its operations were not compared: the model has no integer program" in str(found)


@keras.utils.register_keras_serializable("tests")
def blocks(x):
    return tf.nn.space_to_depth(x, 2)


MISTAKES = {
    "16 bits without a sign": (L.ReLU, 16, 8, "must be of 15 bits without levels below zero, or of 16"),
    "12 bits of weights": (L.ReLU, 12, 12, "must be of 8 bits, or of fewer with powers of two"),
    "an operation of 8 bits": (
        lambda: L.Activation(blocks),
        12,
        8,
        "must be of operations that .* 'tfl.space_to_depth' op",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_has_no_file_of_16_bits_is_explained(mistake, tmp_path):
    layer, bits, weight_bits, text = MISTAKES[mistake]
    network = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 1), layer()])
    recipe = tq.Recipe({"num_bits": weight_bits}, {"num_bits": bits})
    model = tq.convert(tq.prepare(network, recipe, [IMAGES], verbose=False))
    with pytest.raises(tq.QuantizerError, match=text):
        tq.export(model, tmp_path / "model.tflite", IMAGES)
    assert not list(tmp_path.iterdir())


def test_kernels_and_files_are_checked(tmp_path):
    (tmp_path / "notes.tflite").write_text("mine")
    with pytest.raises(tq.QuantizerError, match="kernels must be one of 'xnnpack', 'builtin', 'reference', got 'fast'"):
        tq.LiteFile(tmp_path / "notes.tflite", "fast")
    for name in ("notes.tflite", "missing.tflite"):
        with pytest.raises(tq.QuantizerError, match=r"path must be a .tflite file, got '.*'; the runtime says: "):
            tq.LiteFile(tmp_path / name)
