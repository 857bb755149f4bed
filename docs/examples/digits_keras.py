"""From a float CNN to a deployed quantized one in Keras: ``python docs/examples/digits_keras.py --help``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from digits import Result, load_data, options, recipe
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


def main() -> None:
    """Float training, quantization, training, deployment, comparison."""
    args = options()
    keras.utils.set_random_seed(args.seed)
    train_x, test_x, train_y, test_y = load_data(args.seed)
    train_x, test_x = train_x[..., None], test_x[..., None]

    model = build()
    train(model, train_x, train_y, args.float_epochs, 3e-3, "Training in float")
    float_logits = model.predict(test_x, verbose=0)
    sizes = [layer.get_weights()[0].size for layer in model.layers if layer.get_weights()]

    model = tq.prepare(model, recipe(args), train_x, verbose=False)
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
