"""A whole small network with the same weights in both frameworks, trained 20 steps by SGD on the same batches.

The two stay together within 1e-4 relative: convolutions and sums are reduced in other orders, which moves
single values by an ulp, and now and then one of thousands of values across a tie, by one level.
"""

import numpy as np
import pytest
import tensorflow as tf
import torch
import trainable_quantizers_keras as kq
import trainable_quantizers_torch as tq
from trainable_quantizers_core import MIN_THRESHOLD, QuantizationMethod

keras = tf.keras
METHODS = {"Symmetric": QuantizationMethod.POWER_OF_TWO, "Uniform": QuantizationMethod.UNIFORM}
PARAMS = {"Symmetric": {"threshold": 0.45}, "Uniform": {"range_min": -0.4, "range_max": 0.5}}


def quantizers(package, training, kind, axis):
    """One of weights and a function that makes those of activations."""
    weights = getattr(package, f"{training}{kind}WeightsTrainableQuantizer")
    activation = getattr(package, f"{training}{kind}ActivationTrainableQuantizer")
    method, params = METHODS[kind], PARAMS[kind]
    weights_config = package.TrainableQuantizerWeightsConfig(method, 4, params, True, axis, True, MIN_THRESHOLD)
    activation_config = package.TrainableQuantizerActivationConfig(method, 4, params, True, MIN_THRESHOLD)
    return weights(weights_config), activation(activation_config)


def torch_network(training, kind, kernels):
    def wrap(layer, kernel):
        quantizer, activation = quantizers(tq, training, kind, 0)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.zero_()
        wrapper = tq.PytorchTrainableQuantizationWrapper(layer, {"weight": quantizer})
        return [wrapper, tq.PytorchTrainableActivationQuantizationHolder(activation)]

    first = wrap(torch.nn.Conv2d(2, 4, 3), kernels[0].transpose(3, 2, 0, 1))
    second = wrap(torch.nn.Linear(4, 3), kernels[1].T)
    return torch.nn.Sequential(*first, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), *second)


def keras_network(training, kind, kernels):
    def wrap(layer):
        quantizer, activation = quantizers(kq, training, kind, -1)
        wrapper = kq.KerasTrainableQuantizationWrapper(layer, {"kernel": quantizer})
        return [wrapper, kq.KerasActivationQuantizationHolder(activation)]

    layers = [*wrap(keras.layers.Conv2D(4, 3)), keras.layers.GlobalAveragePooling2D(), *wrap(keras.layers.Dense(3))]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    for wrapper, kernel in zip((model.layers[0], model.layers[3]), kernels, strict=True):
        wrapper.layer.kernel.assign(kernel)
    return model


@pytest.mark.parametrize("training", ["STE", "LSQ"])
@pytest.mark.parametrize("kind", ["Symmetric", "Uniform"])
def test_losses_and_thresholds_stay_together(training, kind):
    generator = np.random.default_rng(0)
    kernels = [generator.normal(0, 0.3, shape).astype(np.float32) for shape in ((3, 3, 2, 4), (4, 3))]
    batches = generator.normal(size=(20, 8, 6, 6, 2)).astype(np.float32)
    targets = generator.normal(size=(20, 8, 3)).astype(np.float32)
    torch_model, keras_model = torch_network(training, kind, kernels), keras_network(training, kind, kernels)
    torch_optimizer = torch.optim.SGD(torch_model.parameters(), lr=0.05)
    keras_optimizer = keras.optimizers.SGD(0.05)
    losses = []
    for x, y in zip(batches, targets, strict=True):
        torch_optimizer.zero_grad()
        torch_loss = torch.mean((torch_model(torch.tensor(x.transpose(0, 3, 1, 2))) - torch.tensor(y)) ** 2)
        torch_loss.backward()
        torch_optimizer.step()
        with tf.GradientTape() as tape:
            keras_loss = tf.reduce_mean((keras_model(x, training=True) - y) ** 2)
        gradients = tape.gradient(keras_loss, keras_model.trainable_weights)
        keras_optimizer.apply_gradients(zip(gradients, keras_model.trainable_weights, strict=True))
        losses.append((torch_loss.item(), float(keras_loss)))
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-4)
    for torch_layer, keras_layer in ((0, 0), (1, 1), (4, 3), (5, 4)):
        pair = [
            model[i] if model is torch_model else model.layers[i]
            for model, i in ((torch_model, torch_layer), (keras_model, keras_layer))
        ]
        held = [
            next(iter(layer.weights_quantizers.values()))
            if hasattr(layer, "weights_quantizers")
            else layer.activation_holder_quantizer
            for layer in pair
        ]
        for name in held[0].quantizer_parameters:
            values = held[0].get_quantizer_variable(name).detach().numpy(), held[1].get_quantizer_variable(name).numpy()
            np.testing.assert_allclose(*values, rtol=1e-4, err_msg=f"{name} of layer {torch_layer}")
    moved = torch_model[0].weights_quantizers["weight"]
    initial = PARAMS[kind].get("threshold", PARAMS[kind].get("range_max"))
    name = "threshold" if kind == "Symmetric" else "max_range"
    assert not np.allclose(moved.get_quantizer_variable(name).detach().numpy(), initial, atol=1e-6)
