"""Schedules of quantizers, in ``fit`` and in loops of one's own."""

import re
import warnings

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, SHOWN, outputs, residual, subclassed

keras = tf.keras
LABELS = np.arange(6) % 5
Method = tq.QuantizationMethod


def prepared(schedule, weights=None, training_method="LSQ", method="power_of_two"):
    keras.utils.set_random_seed(0)
    fields = {"num_bits": 4, "training_method": training_method, "method": method}
    recipe = tq.Recipe({**fields, "schedule": weights or schedule}, {**fields, "schedule": schedule})
    network = residual()
    (dropout,) = (layer for layer in network.layers if isinstance(layer, keras.layers.Dropout))
    dropout.rate = 0.0  # Keras does not keep where its random numbers were
    return tq.prepare(network, recipe, [IMAGES], verbose=False)


def compiled(model, optimizer=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.01), loss)
    return model


def fit(model, steps, callbacks=(), **options):
    """One batch for each epoch."""
    followed = tq.QuantizationScheduleCallback()
    return model.fit(
        IMAGES, LABELS, 6, epochs=steps, shuffle=False, verbose=0, callbacks=[followed, *callbacks], **options
    )


def weights(model, ending):
    named = {getattr(weight, "path", weight.name).partition(":")[0]: weight.numpy() for weight in model.weights}
    return {name: value for name, value in named.items() if name.endswith(ending)}


def counts(model):
    return {float(value) for ending in ("kernel_step", "out_step") for value in weights(model, ending).values()}


def holder(**schedule):
    config = tq.TrainableQuantizerActivationConfig(Method.SYMMETRIC, 4, {tq.THRESHOLD: 1.0}, True, tq.MIN_THRESHOLD)
    quantizer = tq.STESymmetricActivationTrainableQuantizer(config, schedule=tq.QuantizationSchedule(**schedule))
    return tq.KerasActivationQuantizationHolder(quantizer)


def wrapper(**schedule):
    config = tq.WeightsScheme("symmetric", 4).config({tq.THRESHOLD: 1.0}, -1)
    quantizer = tq.STESymmetricWeightsTrainableQuantizer(config, schedule=tq.QuantizationSchedule(**schedule))
    return tq.KerasTrainableQuantizationWrapper(keras.layers.Dense(3, use_bias=False), {"kernel": quantizer})


def test_before_start_training_is_in_float_and_evaluation_is_quantized():
    layer, inputs = wrapper(start=3), tf.constant(IMAGES[0, 0])
    network = keras.Sequential([keras.Input((3,)), layer, holder(start=3)])
    expected = tf.linalg.matmul(inputs, layer.layer.kernel)
    np.testing.assert_array_equal(network(inputs, training=True), expected)
    with pytest.warns(UserWarning, match="converted at step 0, but its schedule quantizes fully only from step 3"):
        deployed = tq.convert(network)
    np.testing.assert_array_equal(deployed(inputs), network(inputs, training=False))
    assert not np.array_equal(deployed(inputs), expected)


def test_over_the_ramp_the_output_and_its_gradient_are_blends():
    layer = holder(ramp=3)
    x = tf.constant([-2.0, -0.31, 0.0, 0.77, 3.0])
    full = layer(x, training=False).numpy()
    (threshold,) = layer.trainable_variables
    for expected in (0.25, 0.5, 0.75, 1.0, 1.0):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        for_x, for_threshold = tape.gradient(y, [x, threshold])
        np.testing.assert_allclose(y, x + expected * (full - x), rtol=1e-6)
        np.testing.assert_allclose(for_x, [1 - expected, 1, 1, 1, 1 - expected], atol=1e-6)
        np.testing.assert_allclose(for_threshold, expected * (-1 + 7 / 8), rtol=1e-6)
        layer.activation_holder_quantizer.advance()
    np.testing.assert_array_equal(layer(x, training=True), full)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
@pytest.mark.parametrize("training_method", ["LSQ", "STE"])
def test_once_in_full_training_is_evaluation_bit_for_bit_and_converts_without_a_warning(method, training_method):
    config = tq.ActivationsScheme(method, 4, training_method)
    params = {tq.RANGE_MIN: -0.7, tq.RANGE_MAX: 1.3} if method == "uniform" else {tq.THRESHOLD: 1.3}
    quantizer = tq.get_trainable_quantizer_class(
        tq.QuantizationTarget.Activation, training_method, config.method, tq.BaseKerasTrainableQuantizer
    )(config.config(params), schedule=tq.QuantizationSchedule(1, 1))
    model = keras.Sequential([keras.Input((24,)), tq.KerasActivationQuantizationHolder(quantizer)])
    assert not np.array_equal(model(ROWS, training=True), model(ROWS, training=False))
    tq.advance_schedules(model, 2)
    np.testing.assert_array_equal(model(ROWS, training=True), model(ROWS, training=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        deployed = tq.convert(model)
    np.testing.assert_array_equal(deployed(ROWS), model(ROWS, training=False))


def test_fit_with_the_callback_goes_through_the_schedule():
    model = compiled(prepared({"start": 2, "ramp": 2}))
    fit(model, 5)
    assert counts(model) == {5.0}


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}], ids=str)
def test_steps_are_those_of_the_optimizer(options):
    model = prepared({"start": 2})
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    targets = np.zeros((6, 5), "float32")
    callback = tq.QuantizationScheduleCallback()
    model.fit(IMAGES, targets, batch_size=1, epochs=2, verbose=0, callbacks=[callback])
    assert counts(model) == {12.0}


def test_a_step_that_a_loss_scale_leaves_out_does_not_count():
    model = prepared({"start": 2})
    scaled = getattr(keras.mixed_precision, "LossScaleOptimizer", None) or keras.optimizers.LossScaleOptimizer
    model.compile(scaled(keras.optimizers.SGD(0.01)), "mse")
    targets = np.zeros((6, 5), "float32")
    targets[2] = np.inf
    model.fit(IMAGES, targets, 1, epochs=2, shuffle=False, verbose=0, callbacks=[tq.QuantizationScheduleCallback()])
    assert counts(model) == {10.0}


def test_parameters_move_between_learn_from_and_learn_until_alone_whatever_the_optimizer_does():
    model = compiled(prepared({"learn_from": 2, "learn_until": 4}), keras.optimizers.AdamW(0.05, weight_decay=0.1))
    moved, before = [], weights(model, "_held")
    for _ in range(6):
        fit(model, 1)
        after = weights(model, "_held")
        moved.append(any(not np.array_equal(after[name], before[name]) for name in after))
        before = after
    assert moved == [False, False, True, True, False, False]
    for name, value in weights(model, "_threshold").items():
        np.testing.assert_array_equal(value, before[f"{name}_held"])
    np.testing.assert_array_equal(tq.convert(model)(IMAGES), model(IMAGES, training=False))


def test_a_training_that_resumes_goes_on_as_the_one_that_was_never_interrupted(tmp_path):
    schedule = {"start": 2, "ramp": 3, "learn_from": 1, "learn_until": 5}
    model = compiled(prepared(schedule), keras.optimizers.SGD(0.01, momentum=0.9))
    fit(model, 3)
    model.save(tmp_path / "model.keras")
    fit(model, 4)
    again = keras.models.load_model(tmp_path / "model.keras")
    assert counts(again) == {3.0}
    fit(again, 4)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_file_written_by_a_callback_after_this_one_holds_the_count(tmp_path):
    model = compiled(prepared({"start": 2}))
    path = str(tmp_path / "model.keras")
    fit(model, 2, [keras.callbacks.ModelCheckpoint(path)])
    assert counts(keras.models.load_model(path)) == {2.0}


@pytest.mark.parametrize("graph", [True, False])
def test_a_loop_of_your_own(graph):
    model = prepared({"start": 1, "ramp": 2, "learn_until": 3})
    optimizer = keras.optimizers.SGD(0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step():
        with tf.GradientTape() as tape:
            value = loss(LABELS, model(IMAGES, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        tq.advance_schedules(model)
        return value

    step = tf.function(step) if graph else step
    losses = [float(step()) for _ in range(5)]
    assert counts(model) == {5.0}
    assert np.isfinite(losses).all()


def test_under_a_distribution_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = compiled(prepared({"start": 2, "ramp": 1}))
    fit(model, 3)
    assert counts(model) == {3.0}


def test_an_optimizer_that_never_steps_is_noticed():
    @tf.autograph.experimental.do_not_convert
    def train_step(data):
        return {"loss": tf.constant(0.0)}

    model = compiled(prepared({"start": 2}))
    model.train_step = train_step
    with pytest.warns(UserWarning, match=r"made no step .* call advance_schedules\(self\)"):
        fit(model, 1)


def test_graph_and_eager_training_agree():
    results = []
    for eagerly in (True, False):
        model = prepared({"start": 1, "ramp": 2, "learn_until": 3})
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=eagerly)
        results.append(fit(model, 4).history["loss"])
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize("name", SHOWN)
def test_every_network_trains_through_its_schedule(name):
    build, inputs = NETWORKS[name]
    keras.utils.set_random_seed(0)
    schedule = {"start": 1, "ramp": 1, "learn_until": 3}
    recipe = tq.Recipe({"num_bits": 4, "schedule": schedule}, {"num_bits": 4, "schedule": schedule})
    data = tuple(inputs) if isinstance(inputs, list) else inputs
    model = tq.prepare(build(), recipe, [data], verbose=False)
    seen = []
    for _ in range(4):
        seen.append(outputs(model, inputs, training=True))
        tq.advance_schedules(model)
    assert all(np.isfinite(each).all() for found in seen for each in found)
    assert any(not np.array_equal(one, other) for one, other in zip(seen[0], seen[2], strict=True))
    wanted = outputs(model, inputs)
    for one, other in zip(outputs(tq.convert(model), inputs), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_subclassed_model_trains_in_float_until_it_starts():
    network = subclassed()
    model = tq.prepare(network, tq.Recipe({"schedule": {"start": 1}}, {"schedule": {"start": 1}}), [ROWS])
    np.testing.assert_array_equal(outputs(model, ROWS, training=True)[0], outputs(network, ROWS)[0])
    tq.advance_schedules(model)
    np.testing.assert_array_equal(outputs(model, ROWS, training=True)[0], outputs(model, ROWS)[0])


MISTAKES = {
    "no schedule": (
        lambda: tq.advance_schedules(residual()),
        "advance_schedules: model must be one whose quantizers have schedules",
    ),
    "nothing to follow": (lambda: fit(compiled(residual()), 1), "give the recipe a schedule, or its weights"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()
