"""Counts the outputs of deployed Keras networks that change on other devices; see docs/exact.md.

``python3 tools/dev.py exact keras [networks]``.
W8A8 and W4A8 with power-of-two ranges, norms folded, three steps of training; and the seconds that the integer program
of MobileNetV2 takes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.enums import BiasGrid
from trainable_quantizers_core.integer.compiled import compiled
from trainable_quantizers_keras import ActivationsScheme, Recipe, WeightsScheme, convert, export, prepare, to_integer

keras = tf.keras
SIZE, COUNT, CLASSES = 64, 64, 100
OPTIONS = {"weights": None, "classes": CLASSES, "classifier_activation": None, "input_shape": (SIZE, SIZE, 3)}
NETWORKS: dict[str, Callable[[], Any]] = {
    "MobileNetV2": lambda: keras.applications.MobileNetV2(alpha=0.35, **OPTIONS),
    "ResNet50": lambda: keras.applications.ResNet50(**OPTIONS),
}


IN_THREADS = """
import sys
import numpy, tensorflow
folder, threads = sys.argv[1:]
tensorflow.config.threading.set_intra_op_parallelism_threads(int(threads))
loaded = tensorflow.saved_model.load(f"{folder}/model")
numpy.save(f"{folder}/outputs.npy", loaded.serve(numpy.load(f"{folder}/images.npy")))
"""
"""A process of its own: TensorFlow takes a number of threads before it computes anything."""


def deployed(name: str, bits: int, bias: str) -> Any:
    """A trained and converted network."""
    keras.utils.set_random_seed(0)
    network, data = NETWORKS[name](), np.random.default_rng(1).normal(size=(32, SIZE, SIZE, 3)).astype("float32")
    network.compile(keras.optimizers.SGD(0.0), "mse")
    network.fit(data * 1.5, np.zeros((32, CLASSES)), batch_size=16, epochs=4, verbose=0)  # gives norms statistics
    recipe = Recipe(WeightsScheme(num_bits=bits, bias=BiasGrid(bias)), ActivationsScheme())
    model = prepare(network, recipe, [data[:16], data[16:]], fold_batch_norm=True, verbose=False)
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data[:16], np.arange(16), epochs=3, verbose=0)
    return convert(model)


def saved(model: Any, images: np.ndarray) -> np.ndarray:
    """The outputs of a SavedModel."""
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "model", images[:2])
        loaded = tf.saved_model.load(str(Path(folder) / "model"))
        return np.asarray(loaded.serve(images))


def in_threads(model: Any, images: np.ndarray) -> Iterator[np.ndarray]:
    """The outputs with one thread and with two."""
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "model", images[:2])
        np.save(f"{folder}/images.npy", images)
        for threads in "12":
            subprocess.run([sys.executable, "-c", IN_THREADS, folder, threads], check=True, capture_output=True)
            yield np.load(f"{folder}/outputs.npy")


def seconds(count: int = 10, size: int = 96) -> str:
    """How long the program of MobileNetV2 of full width takes."""
    network = keras.applications.MobileNetV2((size, size, 3), weights=None, classifier_activation=None)
    images = np.random.default_rng(2).normal(size=(count, size, size, 3)).astype("float32")
    program = to_integer(
        convert(
            prepare(
                network, Recipe(WeightsScheme(), ActivationsScheme()), [images], fold_batch_norm=True, verbose=False
            )
        ),
        images,
    )
    found = []
    for run in (program, compiled(program)):
        start = time.perf_counter()
        run(images)
        found.append(time.perf_counter() - start)
    text = "MobileNetV2 at {}x{}, {} images: {:.1f} s by the program in numpy, {:.1f} s by its C file."
    return text.format(size, size, count, *found)


WAYS: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "one by one": lambda model, images: np.concatenate([model(image[None]).numpy() for image in images]),
    "tf.function": lambda model, images: tf.function(model)(images).numpy(),
    "XLA": lambda model, images: tf.function(model, jit_compile=True)(images).numpy(),
    "SavedModel": saved,
    "1 / 2 threads": in_threads,
    "program": lambda model, images: to_integer(model, images).run(images),
    "C": lambda model, images: compiled(to_integer(model, images))(images),
}


def main() -> None:
    """Measure and print."""
    print(f"| network | bits | bias | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 3)}", flush=True)
    for name in sys.argv[1:] or NETWORKS:
        for bits in (8, 4):
            for bias in ("float", "accumulator"):
                model = deployed(name, bits, bias)
                images = np.random.default_rng(2).normal(size=(COUNT, SIZE, SIZE, 3)).astype("float32")
                expected = model(images).numpy()
                cells = []
                for way in WAYS.values():
                    found = way(model, images)
                    found = list(found) if isinstance(found, Iterator) else [found]
                    cells.append(" / ".join(str(int((each != expected).sum())) for each in found))
                print(f"| {name} | {bits} | {bias} | {' | '.join(cells)} |", flush=True)
    print(f"\nValues of {expected.size} that differ from one batch in Keras.\n{seconds()}")


if __name__ == "__main__":
    main()
