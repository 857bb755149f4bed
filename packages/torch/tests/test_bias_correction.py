"""Biases that make up for the mean error of quantization."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from trainable_quantizers_torch import (
    ActivationsScheme,
    QuantizerError,
    Recipe,
    WeightsScheme,
    convert,
    prepare,
    summary,
)

WEIGHTS = WeightsScheme(num_bits=3, bias_correction=True)
ACTIVATIONS = ActivationsScheme(num_bits=8)


class Branches(nn.Module):
    """Each kind of layer with a bias, one that is called twice (one bias cannot serve two errors), and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.plain = nn.Conv2d(6, 6, 1, bias=False)
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = self.plain(torch.relu(self.up(x))).mean((2, 3))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Branches().eval()


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(32, 3, 10, 10, generator=generator) for _ in range(count)]


def means(model: nn.Module, layer: str, data: list[torch.Tensor]) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def note(module: nn.Module, given: object, result: torch.Tensor) -> None:
        found.append(result)  # what a hook computes would count as the forward's own calls

    handle = model.get_submodule(layer).register_forward_hook(note)
    with torch.no_grad():
        for batch in data:
            model.eval()(batch)
    handle.remove()
    return torch.cat(found).detach().movedim(1, -1).flatten(0, -2).mean(0)


@pytest.mark.parametrize("layer", ["stem", "depthwise", "up", "head"])
def test_the_mean_of_each_channel_is_that_of_the_float_model(network, layer):
    model = prepare(network, Recipe(WEIGHTS), batches(1), verbose=False)
    assert torch.allclose(means(model, layer, batches(1)), means(network, layer, batches(1)), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_leaves_in_the_mode_in_which_it_came(network, training):
    model = prepare(network.train(training), Recipe(WEIGHTS, ACTIVATIONS), batches(1), verbose=False)
    assert all(module.training == training for module in model.modules())


def test_activations_and_several_batches_leave_little_of_the_error(network):
    corrected = prepare(network, Recipe(WEIGHTS, ACTIVATIONS), batches(), verbose=False)
    left = prepare(network, Recipe(WeightsScheme(num_bits=3), ACTIVATIONS), batches(), verbose=False)
    expected = means(network, "head", batches())
    error, before = ((means(model, "head", batches()) - expected).abs().mean() for model in (corrected, left))
    assert error < 0.5 * before


def test_only_layers_with_a_bias_whose_scheme_asks_for_it_change(network):
    recipe = Recipe(WEIGHTS, ACTIVATIONS, rules=[{"name": "up", "weights": {"bias_correction": False}}])
    model = prepare(network, recipe, iter(batches()), verbose=False)
    changed = {
        name
        for name in ("stem", "depthwise", "up", "twice", "head")
        if not torch.equal(model.get_submodule(f"{name}.layer").bias, network.get_submodule(name).bias)
    }
    noted = {row.layer for row in summary(model).rows if "bias corrected" in row.reason}
    assert changed == noted == {"stem", "depthwise", "head"}
    assert model.plain.bias is None and torch.equal(convert(model)(batches()[0]), model.eval()(batches()[0]))


def test_a_function_that_reads_the_weights_of_its_module_is_corrected():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight, bias=self.bias)

    network = nn.Sequential(Own(), nn.ReLU())
    model = prepare(network, Recipe(WEIGHTS), batches(1), verbose=False)
    assert torch.allclose(means(model, "0", batches(1)), means(network, "0", batches(1)), atol=1e-5)
    assert not torch.equal(model[0].layer.bias, network[0].bias)


def test_without_data_there_is_nothing_to_measure(network):
    with pytest.raises(QuantizerError, match="calibration_data must be an iterable of batches"):
        prepare(network, Recipe(WEIGHTS), verbose=False)
