"""Measures methods for few bits on the digits: reconstruction, equalization, widths, tables, oscillations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
import trainable_quantizers_torch as tq
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

SEEDS = (0, 1, 2)


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """1347 images to train, 450 to test, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    return x[:1347], y[:1347], x[1347:], y[1347:]


X, Y, TEST_X, TEST_Y = digits()


def plain() -> nn.Module:
    """Three convolutions and a linear layer."""
    convolutions = [(1, 16, 1), (16, 32, 2), (32, 32, 2)]
    layers = [nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.ReLU()) for i, o, s in convolutions]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def depthwise() -> nn.Module:
    """Depthwise convolutions between pointwise ones, without batch norms."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU()]
    for given, wanted in ((16, 32), (32, 32)):
        layers += [nn.Conv2d(given, given, 3, 2, 1, groups=given), nn.ReLU(), nn.Conv2d(given, wanted, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def normalized() -> nn.Module:
    """The depthwise network with a batch norm behind each convolution."""
    layers: list[nn.Module] = []
    for layer in list(depthwise())[:-2]:
        layers += [layer, nn.BatchNorm2d(layer.out_channels)] if isinstance(layer, nn.Conv2d) else [layer]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def train(
    model: nn.Module,
    epochs: int,
    rate: float,
    budget: tq.Budget | None = None,
    damping: float = 0.0,
    follow: bool = False,
) -> None:
    """Adam with a rate that falls to zero.

    With a budget, widths are learned for six tenths of the epochs. The factor of dampening rises to ``damping``.
    """
    named = list(model.named_parameters())
    attention = [parameter for name, parameter in named if name.endswith("attention")]
    others = [parameter for name, parameter in named if not name.endswith("attention")]
    optimizer = torch.optim.Adam([{"params": others}, {"params": attention, "lr": 1e-2}], rate)
    batches = -(-len(X) // 64)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    if follow or budget is not None:
        tq.follow_optimizer(model, optimizer)
    model.train()
    for epoch in range(epochs):
        if budget is not None and epoch == epochs * 6 // 10:
            tq.fit_budget(model, budget)
        for batch, rows in enumerate(torch.randperm(len(X)).split(64)):
            optimizer.zero_grad()
            loss = cross_entropy(model(X[rows]), Y[rows])
            if budget is not None:
                loss = loss + tq.budget_regularizer(model, budget)
            if damping:
                passed = (epoch * batches + batch) / (epochs * batches)
                loss = loss + damping * passed * tq.oscillation_damping(model)
            loss.backward()
            optimizer.step()
            decay.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Percent of the test images."""
    return 100 * (model.eval()(TEST_X).argmax(1) == TEST_Y).float().mean().item()


@torch.no_grad()
def error(model: nn.Module, network: nn.Module) -> float:
    """Percent: squared distance to the outputs in float, relative to their square, on the test images."""
    expected = network.eval()(TEST_X)
    return 100 * ((model.eval()(TEST_X) - expected).square().sum() / expected.square().sum()).item()


def row(*cells: str) -> None:
    """A line of a table."""
    print("|", " | ".join(cells), "|", flush=True)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of the seeds."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def reconstruction() -> None:
    """Nearest levels beside reconstructed ones, without labels."""
    row(
        "network",
        "bits W/A",
        "float, %",
        "nearest, %",
        "reconstructed, %",
        "error nearest, %",
        "error reconstructed, %",
    )
    for make in (plain, depthwise):
        found: dict[int, list[list[float]]] = {3: [], 4: []}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = make()
            train(network, 15, 3e-3)
            for bits, rows in found.items():
                model = tq.prepare(
                    network,
                    tq.Recipe(tq.WeightsScheme(num_bits=bits), tq.ActivationsScheme(num_bits=8)),
                    [X[:256]],
                    verbose=False,
                )
                figures = [accuracy(network), accuracy(model), error(model, network)]
                tq.reconstruct(model, X[:512].split(64), steps=200, learning_rate=0.03)
                rows.append([*figures, accuracy(tq.convert(model)), error(model, network)])
        for bits, rows in found.items():
            given, nearest, before, reconstructed, after = (spread(values) for values in zip(*rows, strict=True))
            row(make.__name__, f"{bits}/8", given, nearest, reconstructed, before, after)


def search() -> None:
    """One width of weights for all layers beside searched ones that take as many bytes."""
    row("network", "mean bits", "float, %", "one width, %", "searched, %", "error one width, %", "error searched, %")
    for make in (plain, depthwise):
        found: dict[int, list[list[float]]] = {3: [], 4: []}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = make()
            train(network, 15, 3e-3)
            size = sum(weight.numel() for name, weight in network.named_parameters() if name.endswith("weight"))
            for bits, rows in found.items():
                same = tq.Recipe(tq.WeightsScheme(num_bits=bits), tq.ActivationsScheme(num_bits=8))
                budget = tq.Budget(weight_bytes=size * bits / 8)
                widths = (2, 3, 4, 5, 6, 8)
                searched = tq.search_bits(network, same, [X[:256]], budget, widths, verbose=False)
                models = [tq.prepare(network, recipe, [X[:256]], verbose=False) for recipe in (same, searched)]
                rows.append([accuracy(network), *map(accuracy, models), *(error(model, network) for model in models)])
        for bits, rows in found.items():
            row(make.__name__, str(bits), *(spread(values) for values in zip(*rows, strict=True)))


def tables() -> None:
    """Weights of 2 bits, evenly spaced or from a look-up table: as calibrated, and after training."""
    row("network", "weights", "float, %", "calibrated, %", "trained, %")
    for make in (plain, depthwise):
        found: dict[str, list[list[float]]] = {}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = make()
            train(network, 15, 3e-3)
            for method in ("power_of_two", "lut_power_of_two", "symmetric", "lut_symmetric"):
                torch.manual_seed(seed)
                recipe = tq.Recipe(tq.WeightsScheme(method=method, num_bits=2), tq.ActivationsScheme())
                model = tq.prepare(network, recipe, [X[:256]], verbose=False)
                figures = [accuracy(network), accuracy(model)]
                train(model, 10, 1e-3)
                found.setdefault(method, []).append([*figures, accuracy(tq.convert(model))])
        for method, rows in found.items():
            row(make.__name__, method, *(spread(values) for values in zip(*rows, strict=True)))


def learned() -> None:
    """One width for all layers, searched and learned widths, all within as many bytes and trained as long."""
    row("network", "bits at most", "float, %", "one width, %", "searched, %", "learned, %")
    widths = (2, 3, 4, 5, 6, 8)
    activations = tq.ActivationsScheme(num_bits=8)
    for make in (plain, depthwise):
        found: dict[int, list[list[float]]] = {2: [], 3: []}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = make()
            train(network, 15, 3e-3)
            size = sum(weight.numel() for name, weight in network.named_parameters() if name.endswith("weight"))
            for bits, rows in found.items():
                budget = tq.Budget(weight_bytes=size * (bits + 0.5) / 8)
                same = tq.Recipe(tq.WeightsScheme(num_bits=bits), activations)
                schedule = tq.QuantizationSchedule(ramp=6 * -(-len(X) // 64))
                candidates = tq.WeightsScheme(
                    num_bits=bits, training_method="DQA", bits_candidates=widths, schedule=schedule
                )
                searched = tq.search_bits(network, same, [X[:256]], budget, widths, verbose=False)
                figures = [accuracy(network)]
                learning = tq.Recipe(candidates, activations)
                for recipe, limit in ((same, None), (searched, None), (learning, budget)):
                    torch.manual_seed(seed)
                    model = tq.prepare(network, recipe, [X[:256]], verbose=False)
                    train(model, 10, 1e-3, limit)
                    figures.append(accuracy(tq.convert(model)))
                rows.append(figures)
        for bits, rows in found.items():
            row(make.__name__, f"{bits + 0.5}", *(spread(values) for values in zip(*rows, strict=True)))


def oscillations() -> None:
    """Weights that oscillate through batch norms, dampened or frozen: shares at the end, deployed accuracy."""
    row("bits W/A", "training", "float, %", "oscillate, %", "frozen, %", "deployed, %", "norms measured anew, %")
    rates, frozen = tq.Oscillations(), tq.Oscillations(freeze_above=0.005, anneal_from=0.05, ramp=330)
    ways = {"plain": (rates, 0.0), "dampened": (rates, 1e-2), "frozen": (frozen, 0.0)}
    for bits in (3, 2):
        found: dict[str, list[list[float]]] = {way: [] for way in ways}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = normalized()
            train(network, 15, 3e-3)
            for way, rows in found.items():
                torch.manual_seed(seed)
                rule, damping = ways[way]
                weights = tq.WeightsScheme(num_bits=bits, oscillations=rule)
                recipe = tq.Recipe(weights, tq.ActivationsScheme(num_bits=bits))
                model = tq.prepare(network, recipe, [X[:256]], fold_batch_norm=False, verbose=False)
                train(model, 15, 3e-3, damping=damping, follow=True)
                figures = tq.telemetry(model, [X[:64]])
                shares = [
                    100 * statistics.mean(value for name, value in figures.items() if name.endswith(figure))
                    for figure in ("oscillating", "frozen")
                ]
                deployed = accuracy(tq.convert(model))
                tq.reestimate_batch_norm(model.train(), X[:1024].split(64))
                rows.append([accuracy(network), *shares, deployed, accuracy(tq.convert(model))])
        for way, rows in found.items():
            row(f"{bits}/{bits}", way, *(spread(values) for values in zip(*rows, strict=True)))


def equalization() -> None:
    """Weights of 4 bits as calibrated, with and without equalized channels."""
    row("network", "granularity", "float, %", "calibrated, %", "equalized, %", "error, %", "error equalized, %")
    for make in (plain, depthwise):
        found: dict[tq.Granularity, list[list[float]]] = {each: [] for each in tq.Granularity}
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = make()
            train(network, 15, 3e-3)
            for granularity, rows in found.items():
                recipe = tq.Recipe(tq.WeightsScheme(num_bits=4, granularity=granularity), tq.ActivationsScheme())
                models = [
                    tq.prepare(network, recipe, [X[:256]], equalize=each, verbose=False) for each in (False, True)
                ]
                rows.append([accuracy(network), *map(accuracy, models), *(error(model, network) for model in models)])
        for granularity, rows in found.items():
            row(make.__name__, granularity.value, *(spread(values) for values in zip(*rows, strict=True)))


if __name__ == "__main__":
    reconstruction()
    equalization()
    search()
    learned()
    tables()
    oscillations()
