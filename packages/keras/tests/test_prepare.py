"""From a float model to a trained one to a deployed one, by a recipe."""

import copy
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import (
    IMAGES,
    MOBILE_NET,
    NETWORKS,
    ROWS,
    SHOWN,
    SPECIAL,
    STEPS,
    TOKENS,
    Subclassed,
    outputs,
    residual,
    subclassed,
)
from numpy.testing import assert_array_equal
from trainable_quantizers_keras.inventory import quantizers_of
from trainable_quantizers_keras.keras_version import KERAS_3

keras = tf.keras
L = keras.layers
RECIPE = tq.Recipe(tq.WeightsScheme(num_bits=4), tq.ActivationsScheme(num_bits=4))
WRAPPER = tq.KerasTrainableQuantizationWrapper
UNSAVED = {
    "subclassed": "Keras itself rebuilds it without its quantizers",
    "shared across models": "Keras itself does not load a file of such a model, not of the float one either",
}


def prepared(name, recipe=RECIPE, **options):
    keras.utils.set_random_seed(0)
    build, inputs = {**NETWORKS, **SPECIAL, **MOBILE_NET}[name]
    network = build()
    return network, tq.prepare(network, recipe, as_batch(inputs), verbose=False, **options), inputs


def as_batch(inputs):
    return [tuple(inputs) if isinstance(inputs, list) else inputs]


def rows(model):
    return {row.layer: row for row in tq.summary(model).rows}


def train(model, inputs, steps, graph=True):
    optimizer = keras.optimizers.SGD(1e-3)
    variables = model.trainable_variables

    def step():
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_mean(y**2) for y in tf.nest.flatten(model(inputs, training=True)))
        gradients = tape.gradient(loss, variables)
        assert all(gradient is not None for gradient in gradients), "a variable takes no part"
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    run = tf.function(step) if graph else step
    for _ in range(steps):
        run()


def check_same(model, other, inputs):
    for one, two in zip(outputs(model, inputs), outputs(other, inputs), strict=True):
        assert_array_equal(one, two)


def check_runtime(model, deployed):
    """The summary says whether the converted model needs this package."""
    ours = any(type(layer).__module__.startswith("trainable_quantizers") for layer in deployed._flatten_layers())
    assert tq.summary(model).runtime == ("trainable-quantizers-keras" if ours else "")
    assert ("needs trainable-quantizers-keras to run" in str(tq.summary(model))) == ours


IN_A_GRAPH = ("residual", "shared", "subclassed", "own layers")
LARGE = ("attention with options", "masked", "vision transformer")


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        *(
            pytest.param(name, name in IN_A_GRAPH, marks=[pytest.mark.long] * (name in LARGE))
            for name in (*NETWORKS, *SPECIAL)
        ),
        *(
            pytest.param(name, True, marks=pytest.mark.long)
            for name in {**NETWORKS, **SPECIAL}
            if name not in IN_A_GRAPH
        ),
    ],
)
def test_prepare_train_convert_save_reload(name, graph, tmp_path):
    network, model, inputs = prepared(name)
    before = network.get_weights()
    train(model, inputs, 20 if graph else 3, graph)
    for value, old in zip(network.get_weights(), before, strict=True):
        assert_array_equal(value, old, "the float model changed")
    deployed = tq.convert(model)
    check_same(model, deployed, inputs)
    check_runtime(model, deployed)
    model.save_weights(tmp_path / "model.weights.h5")
    again = prepared(name)[1]
    again.load_weights(tmp_path / "model.weights.h5")
    check_same(model, again, inputs)
    if name not in UNSAVED:
        for each in (deployed, model):
            each.save(tmp_path / "model.keras")
            loaded = tq.keras_load_quantized_model(tmp_path / "model.keras")
            check_same(each, loaded, inputs)
        check_same(deployed, tq.convert(loaded), inputs)


@pytest.mark.parametrize("name", SHOWN)
def test_with_many_bits_a_prepared_model_computes_what_the_float_model_does(name):
    scheme = {"num_bits": 16, "calibration": "min_max", "method": "symmetric"}
    network, model, inputs = prepared(name, tq.Recipe(scheme, scheme))
    for found, wanted in zip(outputs(model, inputs), outputs(network, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-3 * max(np.abs(wanted).max(), 0.1))


def test_a_subclassed_model_resumes_from_its_weights_and_converts_at_once(tmp_path):
    network = subclassed()
    model = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    model.compile("sgd", "mse")
    model.fit(ROWS, np.zeros((6, 3)), verbose=0)
    deployed = tq.convert(model)
    assert tq.verify(model, deployed, [ROWS]).identical
    model.save_weights(tmp_path / "model.weights.h5")
    again = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    again.load_weights(tmp_path / "model.weights.h5")
    check_same(again, tq.convert(again), ROWS)
    check_same(again, model, ROWS)


class Branching(keras.Model):
    """Shifts its result in training."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x, training=None):
        return self.dense(x) + 1.0 if training else self.dense(x)


def test_a_model_whose_call_cannot_be_recorded_keeps_it_and_is_no_keras_file(tmp_path):
    network = Branching()
    network(ROWS)
    model = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    assert "it computes differently in training and in evaluation" in rows(model)["dense"].reason
    assert np.abs(outputs(model, ROWS, training=True)[0] - outputs(model, ROWS)[0] - 1).max() < 1e-5
    check_same(model, tq.convert(model), ROWS)
    with pytest.raises(tq.QuantizerError, match="write a SavedModel, a path without suffix"):
        tq.export(tq.convert(model), tmp_path / "model.keras", ROWS)
    around = keras.Model(rows_in := keras.Input((24,)), model(rows_in))
    for each in (model, tq.convert(model), around, tq.convert(around)):
        for again in (keras.models.clone_model, copy.deepcopy, lambda it: it.save(tmp_path / "model.keras")):
            with pytest.raises(tq.QuantizerError, match="model must be one that Keras rebuilds with its quantizers"):
                again(each)


class Tied(keras.Model):
    """Reads an attribute and a weight of its layers; shifts its result in training."""

    def __init__(self):
        super().__init__()
        self.words, self.body = L.Embedding(10, 8), L.Dense(8)

    def call(self, tokens, training=None):
        x = self.body(self.words(tokens)) * self.body.units**-0.5
        scores = tf.matmul(x, self.words.embeddings, transpose_b=True)
        return scores + 1.0 if training else scores


def test_a_wrapped_layer_answers_as_the_layer_where_a_call_stays_python():
    network = Tied()
    network(TOKENS)
    model = tq.prepare(network, RECIPE, [TOKENS], verbose=False)
    check_same(model, tq.convert(model), TOKENS)
    values = np.asarray(model.words.embeddings)
    assert (values != network.words.embeddings.numpy()).any(), "a tied weight is read quantized"
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.words.nothing


@pytest.mark.long
def test_a_well_known_network(tmp_path):
    _, model, images = prepared("MobileNetV2", tq.Recipe.preset("mixed_w4a8"), fold_batch_norm=True)
    train(model, images, 3)
    deployed = tq.convert(model)
    check_same(model, deployed, images)
    assert tq.export(deployed, tmp_path / "deployed.keras", images).identical
    found = tq.export(deployed, tmp_path / "deployed", images)
    assert found.largest <= 0.1, str(found)  # of shares; a graph fuses, and ties turn last bits into steps
    assert not any("no word" in row.reason for row in tq.summary(model).rows)


@keras.utils.register_keras_serializable("tests")
class MaskedInPython(keras.Model):
    """Hands a mask on from layer to layer."""

    def __init__(self):
        super().__init__()
        self.masking, self.dense, self.lstm = L.Masking(), L.Dense(6), L.LSTM(4)

    def call(self, x):
        return self.lstm(self.dense(self.masking(x)))

    def get_config(self):
        return {}


def test_masks_reach_the_layers_of_a_subclassed_model():
    network = MaskedInPython()
    network(STEPS)
    scheme = {"num_bits": 16, "calibration": "min_max", "method": "symmetric"}
    model = tq.prepare(network, tq.Recipe(scheme, scheme), [STEPS], verbose=False)
    np.testing.assert_allclose(model(STEPS), network(STEPS), atol=1e-3)
    check_same(model, tq.convert(model), STEPS)


def test_a_prepared_model_is_fit_as_any_other():
    _, model, inputs = prepared("residual")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(inputs, np.arange(6) % 5, epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    check_same(model, tq.convert(model), inputs)


def test_thresholds_come_from_data():
    network = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False), L.ReLU()])
    network.set_weights([np.float32([[0.7, -3.0], [0.1, 0.0]])])
    recipe = tq.Recipe(tq.WeightsScheme(calibration="min_max"), tq.ActivationsScheme(calibration="min_max"))
    data = [np.float32([[5.0, -1.0]]), np.float32([[1.0, 1.0]])]
    model = tq.prepare(network, recipe, data, verbose=False)
    thresholds = [weight.numpy().tolist() for weight in model.weights if "threshold" in weight.name]
    assert thresholds == [8.0, [1.0, 4.0], 4.0]  # input, kernel, output of the ReLU, whose largest is 3.4


def test_a_tensor_is_quantized_once_after_its_activation_function():
    table = rows(prepared("residual")[1])
    quantized = [name for name, row in table.items() if row.activations]
    assert quantized[:2] == ["image", "first_relu"]
    assert {"relu", "mean", "head"} < set(quantized)
    assert not {"first", "sum"} & set(quantized)
    assert "output: left to first_norm" in table["first"].reason
    assert len(quantized) == 6  # those, and the norm that goes into the sum


def test_a_layer_used_twice_has_one_quantizer_for_its_weight_and_one_for_each_output():
    _, model, _ = prepared("shared")
    table = rows(model)
    assert sum(isinstance(layer, WRAPPER) for layer in model._flatten_layers()) == 2
    assert table["twice"].activations
    assert table["twice_1"].activations
    assert table["twice_1"].reason == "default; shares its weight and weight quantizer with twice"
    assert table["inner/conv"].weights


def test_each_result_of_a_layer_that_something_reads_has_a_quantizer():
    sequence = keras.Input((5, 8))
    steps, hidden, _ = L.LSTM(4, return_state=True, return_sequences=True, name="lstm")(sequence)
    network = keras.Model(sequence, [L.Dense(3, name="head")(steps), hidden])
    model = tq.prepare(network, RECIPE, [STEPS], verbose=False)
    found = [parameter.layer for parameter in quantizers_of(model) if parameter.attribute == "output"]
    assert {"lstm", "lstm.1", "head"} <= set(found)
    assert "lstm.2" not in rows(model)
    hidden_values = outputs(model, STEPS)[1]
    assert len(np.unique(hidden_values)) <= 16
    check_same(model, tq.convert(model), STEPS)


def test_weights_of_layers_inside_layers_are_quantized():
    _, model, _ = prepared("recurrent")
    both = next(layer for layer in model.layers if layer.name == "both")
    assert sorted(both.weights_quantizers) == [
        f"{direction}_layer.cell.{weight}"
        for direction in ("backward", "forward")
        for weight in ("kernel", "recurrent_kernel")
    ]
    _, model, _ = prepared("vision transformer")
    assert sum(bool(row.weights) for name, row in rows(model).items() if name.startswith("attention_0/")) == 4
    assert rows(model)["attention_0/softmax"].activations


@pytest.mark.parametrize("name", ["recurrent"])
def test_channels_of_weights_inside_are_on_their_last_axis(name):
    _, model, _ = prepared(name)
    inside = [each for each in quantizers_of(model) if "." in each.attribute]
    assert inside
    for each in inside:
        weights = {key: weight for key, weight, _ in each.holder.get_weights_vars()}
        assert each.values["threshold"].shape == (weights[each.attribute].shape[-1],)


def test_quantizing_a_weight_inside_changes_what_the_layer_computes():
    recipe = tq.Recipe(tq.WeightsScheme(num_bits=2))
    for name in ("recurrent", "vision transformer", "own layers"):
        network, model, inputs = prepared(name, recipe)
        assert (outputs(network, inputs)[0] != outputs(model, inputs)[0]).any(), name


def test_integers_stay_as_they_are_and_functions_of_ones_own_are_quantized():
    assert rows(prepared("inputs of two kinds")[1])["tokens"].reason == "not a floating tensor"
    own = rows(prepared("own layers")[1])["own/matmul"]
    assert own.weights
    assert own.activations
    network = keras.Sequential([keras.Input((4,)), L.Dense(2), L.Lambda(lambda x: x * 2, name="double")])
    model = tq.prepare(network, RECIPE, [ROWS[:, :4]], verbose=False)
    assert rows(model)["double/multiply"].activations


def test_coverage_counts_what_is_quantized():
    for name in ("residual", "shared", "own layers", "subclassed", "vision transformer"):
        assert tq.summary(prepared(name)[1]).coverage == 1
    found = tq.summary(prepared("recurrent")[1])
    assert 0 <= found.coverage < 1  # recurrent layers hold their states in float
    assert found.work.float_operations


def test_a_rule_that_names_a_layer_of_your_own_quantizes_it():
    recipe = tq.Recipe(tq.WeightsScheme(), rules=[tq.LayerRule(type="Own", weights={"num_bits": 3})])
    _, model, inputs = prepared("own layers", recipe)
    assert rows(model)["own/matmul"].weights.startswith("3-bit")
    check_same(model, tq.convert(model), inputs)


def test_layers_that_are_not_trainable_stay_so():
    network = residual()
    network.get_layer("first").trainable = False
    model = tq.prepare(network, RECIPE, [IMAGES], verbose=False)
    assert not model.get_layer("first").trainable_weights
    assert model.get_layer("second").trainable_weights


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_the_precision_of_layers_is_kept(policy):
    keras.mixed_precision.set_global_policy(policy)
    recipe = tq.Recipe({"num_bits": 4, "accumulator_bits": 12}, {"num_bits": 4})
    try:
        network = keras.Sequential([keras.Input((24,)), L.Dense(4, activation="relu"), L.Dense(2)])
        model = tq.prepare(network, recipe, [ROWS], verbose=False)
        computed = policy.removeprefix("mixed_")
        assert {layer.compute_dtype for layer in model.layers if isinstance(layer, WRAPPER)} == {computed}
        check_same(model, tq.convert(model), ROWS)
    finally:
        keras.mixed_precision.set_global_policy("float32")


WORDS = {
    "words": (L.TextVectorization, {"output_mode": "multi_hot"}, [["one two"], ["two three"]]),
    "weighed words": (L.TextVectorization, {"output_mode": "tf_idf"}, [["one two"], ["two three"]]),
    "categories": (L.IntegerLookup, {"output_mode": "one_hot"}, [[5], [7]]),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_vocabulary_that_a_layer_adapted_to_is_kept(kind):
    cls, options, data = WORDS[kind]
    given, layer = tf.constant(data, tf.string if cls is L.TextVectorization else tf.int64), cls(**options)
    layer.adapt(given)
    inputs = keras.Input((1,), dtype=given.dtype)
    network = keras.Model(inputs, L.Dense(2)(layer(inputs)))
    model = tq.prepare(network, tq.Recipe({"num_bits": 16}), [given], verbose=False)
    np.testing.assert_allclose(model(given), network(given), atol=1e-3)
    assert_array_equal(tq.convert(model)(given), model(given))


def test_batches_may_be_datasets_with_targets_dictionaries_or_one_array():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.arange(6))).batch(3)
    thresholds = [
        [weight.numpy().tolist() for weight in model.weights if "threshold" in weight.name]
        for model in (
            tq.prepare(network, RECIPE, data, verbose=False)
            for network in [residual()]
            for data in (dataset, [{"image": IMAGES[:3]}, {"image": IMAGES[3:]}], [IMAGES[:3], IMAGES[3:]])
        )
    ]
    assert thresholds[0] == thresholds[1] == thresholds[2]
    tq.prepare(residual(), RECIPE, IMAGES, verbose=False)


def test_the_summary_is_printed(capsys):
    model = tq.prepare(residual(), RECIPE, [IMAGES])
    assert str(tq.summary(model)) in capsys.readouterr().out


def test_folding_is_exact_in_evaluation_and_said():
    for name in ("residual", "chain"):
        keras.utils.set_random_seed(1)
        build, inputs = NETWORKS[name]
        network = build()
        rng = np.random.default_rng(1)
        network.set_weights([weight + 0.1 * rng.random(weight.shape) for weight in network.get_weights()])
        wide = {"num_bits": 16, "granularity": "per_channel", "method": "symmetric"}
        model = tq.prepare(network, tq.Recipe(wide), verbose=False, fold_batch_norm=True)
        folded = [row.layer for row in tq.summary(model).rows if row.reason.startswith("folded into")]
        norms = [layer for layer in network.layers if isinstance(layer, L.BatchNormalization)]
        assert len(folded) == len(norms)
        assert not any(isinstance(layer, L.BatchNormalization) for layer in model.layers)
        np.testing.assert_allclose(outputs(model, inputs)[0], outputs(network, inputs)[0], rtol=1e-2, atol=1e-3)


def test_norms_that_nothing_takes_up_stay_and_it_is_said():
    network = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="relu"), L.BatchNormalization(name="norm")])
    model = tq.prepare(network, tq.Recipe(tq.WeightsScheme()), verbose=False, fold_batch_norm=True)
    assert "not folded" in rows(model)["norm"].reason


def with_layers(*names):
    return keras.Sequential([keras.Input((24,)), *(L.Dense(2, name=name) for name in names)])


MISTAKES = {
    "no data": (lambda: tq.prepare(residual(), RECIPE, verbose=False), "must be an iterable of batches"),
    "empty data": (lambda: tq.prepare(residual(), RECIPE, [], verbose=False), "must be at least one batch"),
    "other batches": (
        lambda: tq.prepare(residual(), RECIPE, [ROWS], verbose=False),
        "got 'float32 array of shape (6, 24)' in batch 0; the model says: ",
    ),
    "no recipe": (lambda: tq.prepare(residual(), {"weights": {}}, verbose=False), "load one with Recipe.from_file"),
    "no model": (lambda: tq.prepare(residual, RECIPE, verbose=False), "pass the network itself"),
    "not built": (lambda: tq.prepare(Subclassed(), RECIPE, [ROWS], verbose=False), "call it on a batch first"),
    "prepared": (lambda: tq.prepare(prepared("residual")[1], RECIPE, verbose=False), "pass the float model"),
    "converted": (lambda: tq.prepare(tq.convert(prepared("residual")[1]), RECIPE), "one without quantizers"),
    "no such layer": (
        lambda: tq.prepare(residual(), tq.Recipe(rules=[tq.LayerRule(name="haed", skip=True)]), verbose=False),
        "did you mean 'head'",
    ),
    "not prepared": (lambda: tq.summary(residual()), "prepare it first"),
    "the name of a quantizer": (
        lambda: tq.prepare(with_layers("head", "head_quantized"), RECIPE, [ROWS], verbose=False),
        "name of a layer must be another than that of the quantizer behind 'head', got 'head_quantized'",
    ),
}


if KERAS_3:  # Keras 2 quantizes nothing

    def quantized_by_keras():
        network = residual()
        network.quantize("int8")
        return network

    MISTAKES["quantized by Keras"] = (
        lambda: tq.prepare(quantized_by_keras(), RECIPE, verbose=False),
        "one without quantizers",
    )


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()


def test_calibration_on_an_endless_stream_ends_and_says_so():
    data = tf.data.Dataset.from_tensor_slices(ROWS).batch(3).repeat()
    network = keras.Sequential([keras.Input((24,)), L.Dense(2)])
    with pytest.warns(UserWarning, match=r"prepare: calibration took the first 1000 batches and left the others"):
        model = tq.prepare(network, RECIPE, data, verbose=False)
    assert tq.summary(model).coverage == 1


def test_threads_that_call_one_model_leave_its_weights_alone():
    network = keras.Sequential([keras.Input((24,)), L.Dense(64, "relu"), L.Dense(2)])
    model = tq.prepare(network, RECIPE, [ROWS], verbose=False)
    wrapped = [layer.layer for layer in model.layers if isinstance(layer, WRAPPER)]
    kernels, right = [layer.kernel for layer in wrapped], outputs(model, ROWS)[0]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: outputs(model, ROWS)[0], range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert all((result == right).all() for result in results)
    assert all(layer.kernel is kernel for layer, kernel in zip(wrapped, kernels, strict=True))


class Cell(L.Layer):
    """A cell that holds layers, registered by nobody."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.of_input, self.of_state = L.Dense(units), L.Dense(units)

    def call(self, x, states):
        state = tf.tanh(self.of_input(x) + self.of_state(states[0]))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_recurrent_layer_with_a_cell_of_ones_own_is_prepared():
    sequence = keras.Input((5, 8))
    network = keras.Model(sequence, L.Dense(2)(L.RNN(Cell(), name="own")(sequence)))
    model = tq.prepare(network, RECIPE, [STEPS], verbose=False)
    own = [each.attribute for each in quantizers_of(model) if each.layer == "own"]
    assert sorted(own) == ["cell.of_input.kernel", "cell.of_state.kernel", "output"]
    check_same(model, tq.convert(model), STEPS)
