"""Takes a small network through all steps: ``python tools/smoke.py torch`` (or ``keras``); ``--quick`` skips files.

Prepares, trains one step, converts, verifies and exports with the packages that are installed, and fails if an output
differs. It tests wheels, the releases of the core that a package admits, and the versions in ``pyproject.toml``.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

CHANNELS, CLASSES, SIZE = 4, 3, 8
TOLERANCE = 0.05  # for files: one step where a sum lies at a tie


def torch_network(folder: Path | None) -> None:
    """Convolution, batch norm, sum and linear layer in PyTorch, to ``.pt2`` and, where onnx is installed, ONNX."""
    import torch
    import trainable_quantizers_torch as tq

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(CHANNELS)
            self.second = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
            self.head = torch.nn.Linear(CHANNELS, CLASSES)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.first(image)))
            return self.head((x + self.second(x)).mean((2, 3)))

    torch.manual_seed(0)
    images = torch.randn(8, 3, SIZE, SIZE)
    recipe = tq.Recipe.preset("power_of_two_8bit")
    model = tq.prepare(Network(), recipe, [images], fold_batch_norm=True, verbose=False)
    assert tq.summary(model).coverage == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.nn.functional.cross_entropy(model.train()(images), torch.arange(8) % CLASSES).backward()
    optimizer.step()
    deployed = tq.convert(model)
    assert tq.verify(model, deployed, [images]).identical
    if folder:
        for ending in (".pt2", ".onnx") if importlib.util.find_spec("onnx") else (".pt2",):
            tq.export(deployed, folder / f"network{ending}", images).raise_if_different(TOLERANCE)


def keras_network(folder: Path | None) -> None:
    """The same network in the Keras that TensorFlow brings, to ``.keras`` and SavedModel."""
    import tensorflow as tf
    import trainable_quantizers_keras as tq

    keras = tf.keras
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(CHANNELS, 3, padding="same")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([x, keras.layers.Conv2D(CHANNELS, 3, padding="same")(x)])
    network = keras.Model(image, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).normal(size=(8, SIZE, SIZE, 3)).astype(np.float32)
    recipe = tq.Recipe.preset("power_of_two_8bit")
    model = tq.prepare(network, recipe, [images], fold_batch_norm=True, verbose=False)
    assert tq.summary(model).coverage == 1
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, np.arange(8) % CLASSES, verbose=0)
    deployed = tq.convert(model)
    assert tq.verify(model, deployed, [images]).identical
    if folder:
        for path in ("network.keras", "network"):
            tq.export(deployed, folder / path, images).raise_if_different(TOLERANCE)


def main() -> None:
    """Run the walk of one framework and say with which versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=["torch", "keras"])
    parser.add_argument("--quick", action="store_true", help="write no files")
    chosen = parser.parse_args()
    walk = torch_network if chosen.framework == "torch" else keras_network
    with tempfile.TemporaryDirectory() as folder:
        walk(None if chosen.quick else Path(folder))
    for package in ("core", chosen.framework):
        name = f"trainable-quantizers-{package}"
        print(name, version(name))


if __name__ == "__main__":
    main()
