"""How many outputs of deployed networks change when their sums are added in another order; see docs/exact.md.

``python3 tools/dev.py exact``. Networks of torchvision with random weights, norms folded, three steps of training.
"""

from __future__ import annotations

import torch
from torch_zoo import import_torchvision
from trainable_quantizers_core.enums import BiasGrid
from trainable_quantizers_torch import ActivationsScheme, Recipe, WeightsScheme, convert, prepare


def deployed(name: str, bits: int, bias: str, size: int = 64) -> torch.nn.Module:
    """A trained and converted network."""
    torch.manual_seed(0)
    network = getattr(import_torchvision().models, name)(weights=None)
    for _ in range(4):  # norms that have seen data
        network(torch.randn(16, 3, size, size) * 1.5)
    data = [torch.randn(16, 3, size, size) for _ in range(2)]
    recipe = Recipe(WeightsScheme(num_bits=bits, bias=BiasGrid(bias)), ActivationsScheme())
    model = prepare(network.eval(), recipe, data, fold_batch_norm=True, verbose=False).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data[0]), torch.arange(16)).backward()
        optimizer.step()
    return convert(model.eval())


def main() -> None:
    """Measure and print."""
    print("| network | bits | bias | one by one | channels last | one thread |\n|---|---|---|---|---|---|")
    for name in ("resnet18", "mobilenet_v2"):
        for bits in (8, 4):
            for bias in ("float", "accumulator"):
                model, images = deployed(name, bits, bias), torch.randn(32, 3, 64, 64)
                with torch.no_grad():
                    expected = model(images)
                    found = [torch.cat([model(image[None]) for image in images])]
                    found.append(model(images.to(memory_format=torch.channels_last)))
                    threads = torch.get_num_threads()
                    torch.set_num_threads(1)
                    found.append(model(images))
                    torch.set_num_threads(threads)
                shares = " | ".join(f"{(each != expected).float().mean():.2%}" for each in found)
                print(f"| {name} | {bits} | {bias} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
