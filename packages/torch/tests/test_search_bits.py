"""A search gives an ordinary recipe: it fits the budget, and reads as it was written."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import Residual, Tied
from trainable_quantizers_torch.inventory import quantizers_of

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RECIPE = tq.Recipe({"num_bits": 8}, {"num_bits": 8}, rules=[tq.LayerRule(position="first", weights={"num_bits": 4})])
SIZES = {"conv1": 216, "conv2": 576, "head": 40}
LATENCY = {name: {(w, a): size * (w + a) for w in (2, 4, 8) for a in (2, 4, 8)} for name, size in SIZES.items()}
WORK = {"conv1": 216 * 64, "conv2": 576 * 64, "head": 40}  # for one example
READ = {"conv1": "x", "conv2": "relu", "head": "mean"}


def network():
    torch.manual_seed(0)
    return Residual().eval()


def widths_of(model):
    return {(each.layer, each.attribute): each.quantizer.specification.grid.num_bits for each in quantizers_of(model)}


def pairs_of(model):
    """Of each layer, the widths of its weights and of its input."""
    found = widths_of(model)
    return {name: (found[name, "weight"], found[READ[name], "output"]) for name in SIZES}


BUDGETS = {
    "bytes": (
        tq.Budget(weight_bytes=450),
        lambda pairs: sum(SIZES[name] * weight / 8 for name, (weight, _) in pairs.items()),
    ),
    "bit operations": (
        tq.Budget(bit_operations=1.5e6),
        lambda pairs: sum(WORK[name] * weight * given for name, (weight, given) in pairs.items()),
    ),
    "latency": (
        tq.Budget(latency=9000, latency_table=LATENCY),
        lambda pairs: sum(LATENCY[name][pair] for name, pair in pairs.items()),
    ),
}


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_recipe_fits_the_budget_and_reads_as_it_was_written(kind, tmp_path):
    budget, cost = BUDGETS[kind]
    found = tq.search_bits(network(), RECIPE, [X], budget, verbose=False)
    model = tq.prepare(network(), found, [X], verbose=False)
    pairs = pairs_of(model)
    assert cost(dict.fromkeys(SIZES, (4, 4))) < cost(pairs) <= budget.amount < cost(dict.fromkeys(SIZES, (8, 8)))
    assert len({bits for pair in pairs.values() for bits in pair}) > 1
    found.to_file(tmp_path / "found.toml")
    again = tq.prepare(network(), tq.Recipe.from_file(tmp_path / "found.toml"), [X], verbose=False)
    assert widths_of(again) == widths_of(model)
    assert torch.equal(again(X), model(X))
    torch.testing.assert_close(tq.convert(model)(X), model(X), rtol=0, atol=0)


def test_what_moves_the_outputs_most_gets_the_bits():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    x = torch.randn(64, 8)
    with torch.no_grad():
        layers[2].weight.mul_(0.01)
        layers[2].bias.copy_(torch.randn(64))
    found = tq.search_bits(layers, tq.Recipe({"num_bits": 4}), [x], tq.Budget(weight_bytes=2100), (2, 8), verbose=False)
    model = tq.prepare(layers, found, [x], verbose=False)
    assert widths_of(model) == {("0", "weight"): 8, ("2", "weight"): 2, ("4", "weight"): 8}


def test_a_shared_weight_has_one_width():
    tokens = torch.arange(10)
    torch.manual_seed(0)
    found = tq.search_bits(
        Tied(), tq.Recipe({"num_bits": 8}, {"num_bits": 8}), [tokens], tq.Budget(weight_bytes=20), verbose=False
    )
    assert {rule.name: rule.weights["num_bits"] for rule in found.rules} == {"words": 4, "head": 4}


def test_layers_in_float_stay_in_float_and_the_model_stays():
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    recipe = tq.Recipe({"num_bits": 8}, rules=[tq.LayerRule(name="conv2", skip=True)])
    found = tq.search_bits(given, recipe, X, tq.Budget(weight_bytes=130), fold_batch_norm=True, verbose=False)
    model = tq.prepare(given, found, [X], fold_batch_norm=True, verbose=False)
    assert {name for name, _ in widths_of(model)} == {"conv1", "head"}
    assert all(torch.equal(given.state_dict()[name], value) for name, value in before.items())


def test_the_table_is_printed(capsys):
    tq.search_bits(network(), RECIPE, [X], tq.Budget(weight_bytes=450))
    assert "of 450 weight bytes" in capsys.readouterr().out


def test_what_cannot_be_searched_is_refused():
    model, budget = network(), tq.Budget(weight_bytes=450)
    learning = tq.Recipe({"training_method": "DQA", "bits_candidates": [2, 8], "num_bits": 8, "schedule": {"ramp": 2}})
    for arguments, told in (
        ((None, [X], budget), "search_bits: recipe must be a Recipe"),
        ((RECIPE, [X], 450), "search_bits: budget must be a Budget, got 450"),
        ((RECIPE, [X], budget, (1, 8)), r"search_bits: widths must be integers in 2\.\.16"),
        ((RECIPE, [X], budget, ()), "search_bits: widths must be integers"),
        ((learning, [X], budget), r"widths must be among bits_candidates, \[2, 8\], got \[2, 4, 8\] for conv1"),
        ((RECIPE, [X], tq.Budget(weight_bytes=200)), "weight_bytes must be at least 208, which the narrowest"),
        ((RECIPE, 5, budget), "search_bits: data must be an iterable of batches"),
        ((RECIPE, [], budget), "calibration_data must be at least one batch"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            tq.search_bits(model, *arguments)
