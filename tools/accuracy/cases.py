"""The rows of the accuracy page, and the calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from data import Data

WIDTHS = ((2, 2), (3, 3), (4, 4), (4, 8))
PAIRS = (
    ("MNIST-5k", "depthwise"),
    ("MNIST-5k", "plain"),
    ("JapaneseVowels", "transformer"),
    ("MNIST-1D", "depthwise"),
    ("digits", "plain"),
)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """What is quantized, and how."""

    data: str
    network: str
    method: str
    weight_bits: int
    activation_bits: int

    @property
    def bits(self) -> str:
        """The bits of weights and activations."""
        return f"W{self.weight_bits}A{self.activation_bits}"

    @property
    def key(self) -> str:
        """The key of the case in the file of results."""
        return f"{self.data} {self.network} {self.method} {self.bits}"


CASES = [Case(*pair, method, *widths) for method, pair, widths in product(("power_of_two", "symmetric"), PAIRS, WIDTHS)]


def calibration(data: Data) -> list[torch.Tensor]:
    """Four batches without labels, the same for every tool."""
    return list(data.x[:256].split(64))
