"""What was written for the Model Compression Toolkit works here once its imports are changed, and nothing else."""

import re

import mct_quantizers
import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_builders import Method, activation_config, weights_config
from trainable_quantizers_keras import compat
from trainable_quantizers_keras.keras_version import KERAS_3, keras, stored

WRITTEN_FOR_THE_TOOLKIT = """
import numpy as np
import tensorflow as tf
from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer
from mct_quantizers.keras.quantizers import WeightsSymmetricInferableQuantizer

from model_compression_toolkit.trainable_infrastructure import (
    BaseKerasTrainableQuantizer, TrainableQuantizerWeightsConfig, TrainingMethod)
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VariableGroup
from model_compression_toolkit.trainable_infrastructure.common.constants import THRESHOLD_TENSOR
from model_compression_toolkit.trainable_infrastructure.common.quant_utils import \\
    get_threshold_reshape_shape
from model_compression_toolkit.trainable_infrastructure.keras.quantizer_utils import symmetric_lsq_quantizer


class BaseOfMine(BaseKerasTrainableQuantizer):
    pass


@mark_quantizer(quantization_target=QuantizationTarget.Weights,
                quantization_method=[QuantizationMethod.SYMMETRIC], identifier="halved")
class HalvedThreshold(BaseOfMine):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)
        self.bits = quantization_config.weights_n_bits
        self.axis = quantization_config.weights_channels_axis
        self.start = np.asarray(quantization_config.weights_quantization_params["threshold"]) / 2

    def initialize_quantization(self, tensor_shape, name, layer):
        channels = tensor_shape[self.axis]
        self.shape = get_threshold_reshape_shape(tensor_shape, self.axis, channels)
        threshold = layer.add_weight(name + THRESHOLD_TENSOR, shape=(channels,),
                                     initializer=tf.keras.initializers.Constant(float(self.start)), trainable=True)
        self.add_quantizer_variable(THRESHOLD_TENSOR, threshold, VariableGroup.QPARAMS)

    def __call__(self, inputs, training):
        threshold = tf.reshape(self.get_quantizer_variable(THRESHOLD_TENSOR), self.shape)
        highest = 2 ** (self.bits - 1) - 1
        return symmetric_lsq_quantizer(inputs, threshold, self.bits, True, -highest - 1, highest, 0.01)

    def convert2inferable(self):
        threshold = self.get_quantizer_variable(THRESHOLD_TENSOR).numpy().tolist()
        return WeightsSymmetricInferableQuantizer(self.bits, threshold, True, self.axis, input_rank=len(self.shape))
"""


def with_changed_imports() -> dict:
    names: dict = {}
    modules = r"model_compression_toolkit\.trainable_infrastructure[.\w]*"
    exec(re.sub(modules, compat.__name__, WRITTEN_FOR_THE_TOOLKIT), names)
    return names


@pytest.mark.parametrize(
    "wrapper", [compat.KerasTrainableQuantizationWrapper] + [mct_quantizers.KerasQuantizationWrapper] * (not KERAS_3)
)
def test_a_class_written_for_the_toolkit_works_with_changed_imports(wrapper, tmp_path):
    names = with_changed_imports()
    found = compat.get_trainable_quantizer_class(
        tq.QuantizationTarget.Weights, "halved", Method.SYMMETRIC, names["BaseOfMine"]
    )
    assert found is names["HalvedThreshold"]
    keras.utils.set_random_seed(0)
    layer = wrapper(keras.layers.Dense(4), {"kernel": found(weights_config({"threshold": 2.0}))})
    model = keras.Sequential([keras.Input((3,)), layer])
    (threshold,) = layer.weights_quantizers["kernel"].get_trainable_variables(compat.VariableGroup.QPARAMS)
    assert threshold.numpy().tolist() == [1.0] * 4
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = [model.train_on_batch(x, np.zeros((8, 4), np.float32)) for _ in range(5)]
    assert losses[-1] < losses[0] and threshold.numpy().tolist() != [1.0] * 4
    trained = model(x).numpy()
    model.save(tmp_path / "model.keras")
    loaded = compat.keras_load_quantized_model(tmp_path / "model.keras", custom_objects={found.__name__: found})
    assert np.array_equal(loaded(x), trained)
    if wrapper is compat.KerasTrainableQuantizationWrapper:
        finalized = layer.convert_to_inferable_quantizers()
        np.testing.assert_allclose(finalized(x), trained, rtol=1e-6, atol=1e-6)  # its conversion is an ulp off the step
        assert not [weight.name for weight in finalized.weights if "threshold" in weight.name]


FULL = {2: (-2, 1, 3), 4: (-8, 7, 15), 8: (-128, 127, 255)}
"""Lowest and highest level of signed bits, and highest of unsigned ones."""


def of_function(bits, method, lsq, axis, x, values):
    """The output of a function of the toolkit with the values of a quantizer."""
    shape = [1] if axis is None else [-1 if i == axis else 1 for i in range(len(x.shape))]
    shaped = [tf.reshape(value, shape) for value in values]
    lowest, highest, steps = FULL[bits]
    if method is Method.UNIFORM:
        how = (bits, 0, steps, lsq) if lsq else (bits,)
        return (compat.uniform_lsq_quantizer if lsq else compat.uniform_quantizer)(x, *shaped, *how)
    how = (bits, True, lowest, highest, lsq) if lsq else (bits, True)
    return (compat.symmetric_lsq_quantizer if lsq else compat.symmetric_quantizer)(x, *shaped, *how)


@pytest.mark.parametrize("bits", FULL)
@pytest.mark.parametrize("method", [Method.SYMMETRIC, Method.UNIFORM])
@pytest.mark.parametrize("training", ["STE", "LSQ"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_functions_have_the_outputs_and_gradients_of_the_quantizers(bits, method, training, axis):
    random = np.random.default_rng(bits)
    channels = 1 if axis is None else (3, 4)[axis]
    threshold = (random.random(channels) + 0.3).astype(np.float32)
    params = {"threshold": threshold}
    if method is Method.UNIFORM:
        params = {"range_min": -threshold / 2, "range_max": threshold}
    config = weights_config(
        params, weights_n_bits=bits, weights_quantization_method=method,
        weights_per_channel_threshold=axis is not None, weights_channels_axis=axis or 0,
    )  # fmt: skip
    kind = "Symmetric" if method is Method.SYMMETRIC else "Uniform"
    quantizer = getattr(tq, f"{training}{kind}WeightsTrainableQuantizer")(config)
    layer = tq.KerasTrainableQuantizationWrapper(keras.layers.Dense(4, use_bias=False), {"kernel": quantizer})
    layer.build((None, 3))
    factor = quantizer.specification.lsq_factor(12 // channels) if training == "LSQ" else 0.0
    x = tf.constant(random.normal(size=(3, 4)).astype(np.float32))
    variables = [tf.Variable(value) for value in params.values()]
    trained = [stored(each) for each in quantizer.get_trainable_variables(tq.VariableGroup.QPARAMS)]
    results = []
    for call, parameters in (
        (lambda: quantizer(x, True), trained),
        (lambda: of_function(bits, method, factor, axis, x, variables), variables),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = call()
            loss = tf.reduce_sum(output * tf.reshape(tf.range(12.0), (3, 4)))
        results.append((output, *tape.gradient(loss, [x, *parameters])))
    for quantizers, functions in zip(*results, strict=True):
        assert np.array_equal(np.ravel(quantizers), np.ravel(functions))


def gradient_of(function, *inputs):
    """Outputs, and the gradients of their sum."""
    inputs = [tf.constant(each) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return outputs, tape.gradient(outputs, inputs)


def test_rounding_and_scaling_change_gradients_alone():
    x = np.float32([1e9, 0.1, -2.5])
    for function, output, gradient in (
        (compat.ste_round, [1e9, 0.0, -2.0], [1.0, 1.0, 1.0]),
        (lambda x: compat.ste_clip(x, -2.5, 0.1), [0.1, 0.1, -2.5], [0.0, 1.0, 1.0]),
        (lambda x: compat.grad_scale(x, 0.3), x, [0.3, 0.3, 0.3]),
    ):
        found, (passed,) = gradient_of(function, x)
        assert np.array_equal(found, np.float32(output))
        assert np.array_equal(passed, np.float32(gradient))


def test_both_ends_of_a_range_learn_by_themselves():
    def adjusted(low, high):
        low, high = compat.adjust_range_to_include_zero(low, high, 4)
        return [low * [1.0, 2.0], high * 3]

    (low, _), gradients = gradient_of(adjusted, np.float32([0.5, -2.0]), np.float32([2.0, 1.0]))
    assert low.numpy().tolist() == [0.0, -4.0]
    assert [gradient.numpy().tolist() for gradient in gradients] == [[1.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("training", [compat.TrainingMethod.STE, compat.TrainingMethod.LSQ])
@pytest.mark.parametrize("method", Method.__members__)
def test_activation_quantizers_are_found_below_their_base(training, method):
    def find():
        return compat.get_trainable_quantizer_class(
            tq.QuantizationTarget.Activation, training, Method[method], compat.BaseKerasActivationTrainableQuantizer
        )

    if method == "LUT_SYM_QUANTIZER" or (method == "LUT_POT_QUANTIZER" and training == "STE"):
        with pytest.raises(tq.QuantizerError, match="0 classes match"):
            find()
        return
    kind = {"UNIFORM": "Uniform", "LUT_POT_QUANTIZER": "Table"}.get(method, "Symmetric")
    assert find() is getattr(tq, f"{training.value}{kind}ActivationTrainableQuantizer")


@pytest.mark.parametrize("config", [weights_config({"threshold": np.float32([[0.1, 2.0]])}), activation_config()])
def test_configurations_come_back_from_their_dictionaries(config):
    assert compat.config_deserialization(compat.config_serialization(config)) == config
    with pytest.raises(tq.QuantizerError, match="type must be the name of a configuration class"):
        compat.config_deserialization({"is_weights": True})


def test_a_holder_keeps_nothing_of_what_trained():
    quantizer = tq.LSQUniformActivationTrainableQuantizer(activation_config())
    holder = tq.KerasActivationQuantizationHolder(quantizer)
    assert KERAS_3 or type(holder) is mct_quantizers.KerasActivationQuantizationHolder
    x = np.linspace(-2, 3, 50, dtype=np.float32)[None]
    trained = holder(x).numpy()
    assert [weight.name for weight in holder.weights if "range" in weight.name]
    finalized = holder.convert_to_inferable_quantizers()
    assert np.array_equal(finalized(x), trained)
    assert not [weight.name for weight in finalized.weights if "range" in weight.name]
