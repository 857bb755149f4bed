"""Layers that were reconstructed give more of what they gave in float, and are deployed as they are."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn

X = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def prepared(weights=None):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 3)]
    network = nn.Sequential(*layers)
    recipe = tq.Recipe({"num_bits": 2, **(weights or {})}, {"num_bits": 8})
    return network, tq.prepare(network, recipe, [X], verbose=False)


@torch.no_grad()
def error(model, network):
    return ((model(X) - network(X)).square().sum() / network(X).square().sum()).item()


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_the_error_falls_and_weights_lie_on_levels(method):
    network, model = prepared({"method": method})
    before = error(model, network)
    others = {name: value.clone() for name, value in model.state_dict().items() if "layer.weight" not in name}
    assert tq.reconstruct(model, X.split(32), steps=60, learning_rate=0.1) is model
    assert error(model, network) < 0.8 * before
    kept = []
    for index in (0, 2, 4):
        weight = model[index].layer.weight
        on_levels = torch.equal(model[index].weights_quantizers["weight"](weight, False), weight)
        kept.append(torch.equal(weight, network[index].weight))
        assert on_levels != kept[-1]
    assert not all(kept)
    assert torch.equal(tq.convert(model.eval())(X), model(X))
    assert all(module.training is False for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in others.items() if isinstance(value, torch.Tensor))


def with_block():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), block, nn.Flatten(), nn.Linear(16, 3))
    return network, tq.prepare(network, tq.Recipe({"num_bits": 2}, {"num_bits": 8}), [X], verbose=False)


def test_the_layers_of_a_block_learn_together():
    network, model = with_block()
    before = error(model, network)
    kept = {name: value.clone() for name, value in model.named_parameters()}
    assert tq.reconstruct(model, X.split(32), steps=60, learning_rate=0.05, blocks=["2*"]) is model
    assert error(model, network) < 0.2 * before
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, kept[name])}
    assert {name for name in moved if name.startswith("2.")} == {
        f"2.{index}.layer.{name}" for index in (0, 2) for name in ("weight", "bias")
    }
    assert not [name for name in moved if not name.startswith("2.") and not name.endswith("layer.weight")]
    assert torch.equal(tq.convert(model.eval())(X), model(X))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_learns_like_a_block():
    network, model = with_block()
    before = error(model, network)
    tq.reconstruct(model, X.split(32), steps=60, learning_rate=0.05, blocks=["0", "2", "4"])
    assert error(model, network) < 0.1 * before
    assert not torch.equal(model[4].layer.bias, network[4].bias)
    assert torch.equal(tq.convert(model.eval())(X), model(X))


def test_a_block_that_does_no_better_stays():
    _, model = with_block()
    kept = {name: value.clone() for name, value in model[2].named_parameters()}
    tq.reconstruct(model, [X], steps=5, learning_rate=0.99, blocks=["2"])
    assert all(torch.equal(value, kept[name]) for name, value in model[2].named_parameters())


def test_blocks_that_cannot_be_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.block = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6))

        def forward(self, x):
            return self.block(self.block(self.first(x)))

    _, model = with_block()
    with pytest.raises(tq.QuantizerError, match="blocks must be a sequence of names, got '2'"):
        tq.reconstruct(model, [X], blocks="2")
    with pytest.raises(tq.QuantizerError, match=r"blocks must be names of layers with .* got '2\.1'"):
        tq.reconstruct(model, [X], blocks=["2.1"])
    model = tq.prepare(Twice(), tq.Recipe({"num_bits": 2}, {"num_bits": 8}), [X], verbose=False)
    before = model.first.layer.weight.detach().clone()
    with pytest.raises(tq.QuantizerError, match="blocks must be modules that a batch calls once, got 'block'"):
        tq.reconstruct(model, [X], steps=20, learning_rate=0.2, blocks=["block"])
    assert torch.equal(model.first.layer.weight, before)  # refused before the layer ahead of it learned
    lut = tq.LayerRule(name="1", weights={"method": "lut_power_of_two"})
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    rows = X[..., :2].repeat(1, 1, 1, 3)
    model = tq.prepare(network, tq.Recipe({"num_bits": 2}, rules=(lut,)), [rows], verbose=False)
    with pytest.raises(tq.QuantizerError, match="quantizers of weights must be of evenly spaced levels"):
        tq.reconstruct(model, [rows], steps=20, learning_rate=0.2, blocks=["1"])
    assert torch.equal(model[0].layer.weight, network[0].weight)


def test_modes_stay_and_training_goes_on():
    _, model = prepared()
    model.train()
    model[2].eval()
    tq.reconstruct(model, [X], steps=5)
    assert [model[0].training, model[2].training, model[4].training] == [True, False, True]
    model(X).sum().backward()
    assert model[0].layer.weight.grad is not None


def test_what_cannot_be_reconstructed_is_refused():
    network, model = prepared({"bias_correction": True})
    with pytest.raises(tq.QuantizerError, match="model must be one whose biases are those of the float model"):
        tq.reconstruct(model, [X])
    with pytest.raises(tq.QuantizerError, match="reconstruct: model must be one with quantized weights"):
        tq.reconstruct(network, [X])
    model = prepared()[1]
    with pytest.raises(tq.QuantizerError, match="reconstruct: data must be batches that the model takes"):
        tq.reconstruct(model, [X[:, :1]], steps=5)
    with pytest.raises(tq.QuantizerError, match="reconstruct: data must be at least one batch"):
        tq.reconstruct(model, [], steps=5)
    with pytest.raises(tq.QuantizerError, match="reconstruct: steps must be an integer in 5"):
        tq.reconstruct(model, [X], steps=2)
    with pytest.raises(tq.QuantizerError, match="reconstruct: learning_rate must be above 0"):
        tq.reconstruct(model, [X], learning_rate=0)


def test_what_training_or_conversion_has_settled_is_refused():
    oscillations = {"momentum": 0.25, "freeze_above": 0.2}
    _, model = prepared({"oscillations": oscillations})
    quantizer = model[4].weights_quantizers["weight"]
    moves = quantizer.get_quantizer_variable("moves")
    with torch.no_grad():
        moves[0, 0] = 4 * 1 + 2  # level 1, frozen
    with pytest.raises(tq.QuantizerError, match=r"weights must be of weights that can all move, got '2\.1% frozen'"):
        tq.reconstruct(model, [X], steps=5)
    _, model = prepared()
    model[2].convert_to_inferable_quantizers()
    with pytest.raises(tq.QuantizerError, match="reconstruct: module '2' must be one that trains"):
        tq.reconstruct(model, [X], steps=5)
