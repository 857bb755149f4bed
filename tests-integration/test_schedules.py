"""Schedules and telemetry of Keras and PyTorch compared with each other."""

import numpy as np
import pytest
import tensorflow as tf
import torch
import trainable_quantizers_keras as keras_package
import trainable_quantizers_torch as torch_package
from trainable_quantizers_core import ActivationsScheme, QuantizationSchedule, WeightsScheme
from trainable_quantizers_core.constants import THRESHOLD

SCHEDULE = QuantizationSchedule(start=1, ramp=2, learn_from=2, learn_until=4)
X = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def pair(method, training_method):
    """The holders, whose thresholds no optimizer moves."""
    scheme = ActivationsScheme(method, 4, training_method, schedule=SCHEDULE)
    params = {"range_min": -0.9, "range_max": 1.4} if method == "uniform" else {THRESHOLD: 1.3}
    bases = (torch_package.BasePytorchTrainableQuantizer, keras_package.BaseKerasTrainableQuantizer)
    one, other = (scheme.quantizer(scheme.config(params), base) for base in bases)
    holders = (
        torch_package.PytorchTrainableActivationQuantizationHolder(one),
        keras_package.KerasActivationQuantizationHolder(other),
    )
    holders[1](X)
    return holders


@pytest.mark.parametrize("training_method", ["LSQ", "STE"])
@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_every_step_of_a_schedule_computes_the_same(method, training_method):
    in_torch, in_keras = pair(method, training_method)
    names = in_torch.activation_holder_quantizer.specification.initial
    for _ in range(6):
        x = torch.from_numpy(X).requires_grad_()
        output = in_torch(x)
        output.sum().backward()
        variables = [in_keras.activation_holder_quantizer.get_quantizer_variable(name) for name in names]
        with tf.GradientTape() as tape:
            tape.watch(constant := tf.constant(X))
            wanted = in_keras(constant, training=True)
        for_x, *for_variables = tape.gradient(wanted, [constant, *variables])
        np.testing.assert_array_equal(output.detach(), wanted)
        np.testing.assert_array_equal(x.grad, for_x)
        for name, gradient in zip(names, for_variables, strict=True):
            parameter = in_torch.activation_holder_quantizer.get_quantizer_variable(name)
            np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-6)
            parameter.grad = None
        for holder in (in_torch, in_keras):
            holder.activation_holder_quantizer.advance()


def test_telemetry_of_twins_is_the_same():
    weights = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    recipe = torch_package.Recipe(WeightsScheme("symmetric", 4), ActivationsScheme("uniform", 4))
    linear = torch.nn.Linear(5, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights))
        linear.bias.zero_()
    one = torch_package.prepare(torch.nn.Sequential(linear), recipe, [torch.from_numpy(X)], verbose=False)
    dense = tf.keras.layers.Dense(4, name="dense")
    network = tf.keras.Sequential([tf.keras.Input((5,), name="x"), dense])
    dense.set_weights([weights.T, np.zeros(4, np.float32)])
    other = keras_package.prepare(network, recipe, [X], verbose=False)
    in_torch = torch_package.telemetry(one, [torch.from_numpy(X)], lambda model, batch: model(batch).square().sum())
    in_keras = keras_package.telemetry(other, [X], lambda model, batch: tf.reduce_sum(model(batch) ** 2))
    assert len(in_torch) == len(in_keras) == 22
    # The dense layer of the two frameworks adds up in other orders, which may move a value at a tie.
    twins = {"input.output": "x.output", "0.weight": "dense.kernel", "0.output": "dense.output"}
    for name, found in in_torch.items():
        tensor, _, figure = name.partition("/")
        assert found == pytest.approx(in_keras[f"{twins[tensor]}/{figure}"], rel=2e-2, abs=2e-2), name
