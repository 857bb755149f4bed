"""What both examples share: the data, the options and the table. Nothing here knows a framework."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from trainable_quantizers_core import LayerRule, Recipe

METHODS = {"pot": "power_of_two", "symmetric": "symmetric", "uniform": "uniform"}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small CNN, quantize it, train on, deploy it.")
    parser.add_argument("--weight-bits", type=int, default=4)
    parser.add_argument("--activation-bits", type=int, default=4)
    parser.add_argument("--method", choices=["LSQ", "STE"], default="LSQ", help="how quantization parameters learn")
    parser.add_argument("--quantization", choices=METHODS, default="pot", help="what the range may be")
    parser.add_argument("--float-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of quantization-aware training")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1797 handwritten digits of 8x8 pixels in 0..1: training and test images, training and test labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8)
    return tuple(train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels))


def recipe(args: argparse.Namespace) -> Recipe:
    """All weights and activations by the options; the logits stay in float."""
    scheme = {"method": METHODS[args.quantization], "training_method": args.method, "calibration": "lsq"}
    return Recipe(
        weights={"num_bits": args.weight_bits, **scheme},
        activations={"num_bits": args.activation_bits, **scheme},
        rules=[LayerRule(position="last", activations=False)],
    )


@dataclass
class Result:
    """Logits of the test images in each state of the model, and the bits its weights take."""

    labels: np.ndarray
    float_logits: np.ndarray
    before: np.ndarray
    after: np.ndarray
    deployed: np.ndarray
    float_bits: int
    quantized_bits: int

    def show(self, title: str) -> None:
        """Print the table; exit with 1 if the deployed model differs from the trained one in any bit."""
        table = Table(title=title)
        table.add_column("model")
        table.add_column("accuracy", justify="right")
        table.add_column("weights", justify="right")
        rows = {
            "float": (self.float_logits, self.float_bits),
            "quantized, before training": (self.before, self.quantized_bits),
            "quantized, after training": (self.after, self.quantized_bits),
            "deployed and reloaded": (self.deployed, self.quantized_bits),
        }
        for name, (logits, bits) in rows.items():
            accuracy = (logits.argmax(1) == self.labels).mean()
            table.add_row(name, f"{100 * accuracy:.2f} %", f"{bits / 8 / 1024:.1f} KiB")
        differing = int((self.after.argmax(1) != self.deployed.argmax(1)).sum())
        largest = np.abs(self.after - self.deployed).max()
        table.add_section()
        table.add_row("predictions that differ, trained / deployed", f"{differing} of {len(self.labels)}", "")
        table.add_row("largest output difference", f"{largest:g}", "")
        Console().print(table)
        if self.after.tobytes() != self.deployed.tobytes():
            sys.exit("The deployed model is not the trained one.")
