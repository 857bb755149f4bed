"""From a float CNN to a deployed quantized one in Keras: ``python docs/examples/digits_keras.py --help``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from digits import METHODS, Result, initial_parameters, load_data, options
from rich.progress import Progress

keras = tf.keras


def build() -> keras.Sequential:
    """A float network of three layers."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, strides=2, padding="same"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray, epochs: int, rate: float, text: str) -> None:
    """Adam with a cosine schedule; the quantizers' variables are weights like any other."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(images) // 64))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)
    with Progress() as progress:
        task = progress.add_task(text, total=epochs)
        advance = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress.advance(task))
        model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0, callbacks=[advance])


def weights(layer: keras.layers.Layer, args: argparse.Namespace) -> keras.layers.Layer:
    """``layer`` with a trainable quantizer, one threshold per output channel, on its kernel."""
    kernel = layer.get_weights()[0]
    axis = kernel.ndim - 1
    params = initial_parameters(kernel, args.weight_bits, args.quantization, True, axis)
    config = tq.TrainableQuantizerWeightsConfig(
        args.quantization_method, args.weight_bits, params, True, axis, True, tq.MIN_THRESHOLD
    )
    target, base = tq.QuantizationTarget.Weights, tq.BaseKerasTrainableQuantizer
    quantizer = tq.get_trainable_quantizer_class(target, args.method, args.quantization_method, base)
    return tq.KerasTrainableQuantizationWrapper(layer, {"kernel": quantizer(config)})


def activation(sample: np.ndarray, args: argparse.Namespace) -> keras.layers.Layer:
    """A trainable quantizer for activations such as ``sample``, which are not negative."""
    params = initial_parameters(sample, args.activation_bits, args.quantization, False)
    config = tq.TrainableQuantizerActivationConfig(
        args.quantization_method, args.activation_bits, params, True, tq.MIN_THRESHOLD
    )
    target, base = tq.QuantizationTarget.Activation, tq.BaseKerasTrainableQuantizer
    quantizer = tq.get_trainable_quantizer_class(target, args.method, args.quantization_method, base)
    return tq.KerasActivationQuantizationHolder(quantizer(config))


def quantize(model: keras.Sequential, images: np.ndarray, args: argparse.Namespace) -> keras.Sequential:
    """``model`` with its weights, its input and its activations quantized."""
    layers, x = [keras.Input((8, 8, 1)), activation(images, args)], tf.constant(images)
    for layer in model.layers:
        x = layer(x)
        layers.append(weights(layer, args) if layer.get_weights() else layer)
        if isinstance(layer, keras.layers.ReLU):
            layers.append(activation(x.numpy(), args))
    return keras.Sequential(layers)


def main() -> None:
    """Float training, quantization, training, deployment, comparison."""
    args = options()
    args.quantization_method = tq.QuantizationMethod[METHODS[args.quantization]]
    keras.utils.set_random_seed(args.seed)
    train_x, test_x, train_y, test_y = load_data(args.seed)
    train_x, test_x = train_x[..., None], test_x[..., None]

    model = build()
    train(model, train_x, train_y, args.float_epochs, 3e-3, "Training in float")
    float_logits = model.predict(test_x, verbose=0)
    sizes = [layer.get_weights()[0].size for layer in model.layers if layer.get_weights()]

    model = quantize(model, train_x, args)
    before = model.predict(test_x, verbose=0)
    train(model, train_x, train_y, args.epochs, 2e-3, "Training quantized")
    after = model.predict(test_x, verbose=0)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deployed.keras"
        tq.convert(model).save(path)
        deployed = tq.keras_load_quantized_model(path, compile=False).predict(test_x, verbose=0)
    title = f"Keras, {args.method} {args.quantization}, W{args.weight_bits}A{args.activation_bits}"
    bits = sum(sizes) * 32, sum(sizes) * args.weight_bits
    Result(test_y, float_logits, before, after, deployed, *bits).show(title)


if __name__ == "__main__":
    main()
