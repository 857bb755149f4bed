"""Weights learn their widths: from a mixture, within a budget, to one that is deployed, and written as a recipe."""

import io

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import Residual, Tied
from trainable_quantizers_torch.inventory import quantizers_of

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DQA = {"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"start": 1, "ramp": 6}}
SIZES = {"conv1": 216, "conv2": 576, "head": 40}
WORK = {"conv1": 216 * 64, "conv2": 576 * 64, "head": 40}  # for one example
LATENCY = {name: {(bits, 8): size * bits for bits in (2, 4, 8)} for name, size in SIZES.items()}


def prepared(network=Residual, data=X, **weights):
    torch.manual_seed(0)
    network = network().eval()
    recipe = tq.Recipe({**DQA, **weights}, {"num_bits": 8})
    return network, recipe, tq.prepare(network, recipe, [data], verbose=False)


def widths_of(model):
    return {
        each.layer: each.quantizer.specification.grid.num_bits
        for each in quantizers_of(model)
        if each.target == "weights"
    }


def attend(model, **attention):
    """Give layers the attention of 8, 4 and 2 bits."""
    for name, values in attention.items():
        (quantizer,) = model.get_submodule(name).weights_quantizers.values()
        for bits, value in zip((8, 4, 2), values, strict=True):
            found = quantizer.read_variable("attention").copy()
            found[quantizer.widths.index(bits)] = value
            quantizer.write_variable("attention", found)


def train(model, network, steps, optimizer=None, budget=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.02)
    handle = tq.follow_optimizer(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X) - network(X).detach()).square().mean()
        (loss if budget is None else loss + tq.budget_regularizer(model, budget)).backward()
        optimizer.step()
    handle.remove()
    return optimizer


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_training_begins_with_a_mixture_and_ends_with_the_deployed_network(method):
    network, _, model = prepared(method=method, num_bits=4)
    model.eval()
    fixed = tq.prepare(network, tq.Recipe({"method": method, "num_bits": 4}, {"num_bits": 8}), [X], verbose=False)
    assert torch.equal(model(X), fixed.eval()(X))
    for wrapper in (model.conv1, model.conv2, model.head):
        wrapper.train()
    weights, quantizer = model.conv1.layer.weight, model.conv1.weights_quantizers["weight"]
    each = [candidate(weights) for candidate in quantizer.candidates]
    torch.testing.assert_close(model.conv1.get_quantized_weights()["weight"], sum(each) / 3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(model, network, 8)
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters() if "bit_" in name)
    deployed = tq.convert(model)
    assert torch.equal(model(X), deployed(X))
    assert torch.equal(model.eval()(X), deployed.eval()(X))


def test_candidates_learn_by_the_gradient_rules_of_one_width():
    model = prepared(method="symmetric", threshold_domain="log2", ewgs=0.5)[2]
    weight, quantizer = model.conv1.layer.weight, model.conv1.weights_quantizers["weight"]
    learned = [weight, *(each.get_quantizer_variable("threshold") for each in quantizer.candidates)]
    g = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape)
    of_mixture = torch.autograd.grad(quantizer(weight), learned, g)
    each = sum(candidate(weight) for candidate in quantizer.candidates) / 3
    for one, other in zip(of_mixture, torch.autograd.grad(each, learned, g), strict=True):
        torch.testing.assert_close(one, other)
    assert (of_mixture[0] != g).float().mean() > 0.9


def test_the_regularizer_is_the_expected_excess_and_moves_attention_alone():
    _, _, model = prepared()
    attend(model, conv1=(0.3, 0.0, -0.2))
    tq.advance_schedules(model, 4)
    one = torch.softmax(torch.tensor([0.3, 0.0, -0.2]) / 0.1, 0) @ torch.tensor([8.0, 4.0, 2.0])
    expected = (216 * one + (576 + 40) * 14 / 3) / 8 / 300 - 1
    found = tq.budget_regularizer(model, tq.Budget(weight_bytes=300))
    torch.testing.assert_close(found, expected)
    found.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {f"{name}.weight_attention" for name in SIZES}
    assert tq.budget_regularizer(model, tq.Budget(weight_bytes=900)) == 0
    tq.advance_schedules(model, 9)
    found = tq.budget_regularizer(model, tq.Budget(weight_bytes=416))
    torch.testing.assert_close(found, torch.tensor(1.0))  # 8 bits everywhere, for certain


def test_layers_that_need_bits_keep_them_when_a_budget_asks_for_fewer():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        layers[2].weight.mul_(0.01)
        layers[2].bias.copy_(torch.randn(32))
    x = torch.randn(64, 8)
    recipe = tq.Recipe({**DQA, "bits_candidates": [2, 8], "schedule": {"ramp": 60}})
    model = tq.prepare(layers, recipe, verbose=False)
    attention = [value for name, value in model.named_parameters() if name.endswith("attention")]
    optimizer = torch.optim.Adam(attention, 0.02)
    tq.follow_optimizer(model, optimizer)
    budget = tq.Budget(weight_bytes=800)
    for _ in range(61):
        optimizer.zero_grad()
        loss = 10 * (model(x) - layers(x).detach()).square().mean()
        (loss + tq.budget_regularizer(model, budget)).backward()
        optimizer.step()
    assert widths_of(model) == {"0": 2, "2": 2, "4": 8}  # the others hardly move the outputs
    assert tq.fit_budget(model, budget) == 64 + 256 + 256


BUDGETS = {
    "bytes": (tq.Budget(weight_bytes=300), lambda name, bits: SIZES[name] * bits / 8),
    "bit operations": (tq.Budget(bit_operations=1.5e6), lambda name, bits: WORK[name] * bits * 8),
    "latency": (tq.Budget(latency=2400, latency_table=LATENCY), lambda name, bits: SIZES[name] * bits),
}


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_likeliest_widths_within_a_budget_make_a_recipe_that_reads_as_it_was_written(kind, tmp_path):
    budget, cost = BUDGETS[kind]
    network, recipe, model = prepared()
    attend(model, conv1=(1, 0.9, 0), conv2=(2, 1.9, 0), head=(1, 0, 0))
    spent = tq.fit_budget(model, budget)
    found = widths_of(model)
    assert found == {"conv1": 4, "conv2": 2, "head": 8} if kind == "bytes" else len(set(found.values())) > 1
    assert spent == sum(cost(name, bits) for name, bits in found.items()) <= budget.amount
    assert tq.fit_budget(model, budget) == spent and widths_of(model) == found
    learned = tq.learned_recipe(model, recipe)
    learned.to_file(tmp_path / "learned.toml")
    assert tq.Recipe.from_file(tmp_path / "learned.toml") == learned
    again = tq.prepare(network, learned, [X], verbose=False)
    assert widths_of(again) == found
    assert {type(each.quantizer).__name__ for each in quantizers_of(again)} == {
        "LSQSymmetricWeightsTrainableQuantizer",
        "LSQSymmetricActivationTrainableQuantizer",
    }
    assert torch.equal(again.eval()(X), model.eval()(X))


def test_compiled_it_runs_through_its_schedule_without_compiling_again():
    model, x = tq.prepare(nn.Sequential(nn.Linear(4, 2)), tq.Recipe(DQA), verbose=False), torch.randn(3, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(8):
            torch.testing.assert_close(compiled(x), model(x))
            tq.advance_schedules(model)


def test_a_resumed_training_is_the_same():
    budget = tq.Budget(weight_bytes=300)
    network, _, model = prepared()
    optimizer = train(model, network, 3, budget=budget)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, network, 6, optimizer, budget)
    again = prepared()[2]
    resumed = torch.optim.Adam(again.parameters(), 0.02)
    file.seek(0)
    state, of_optimizer = torch.load(file)
    again.load_state_dict(state)
    resumed.load_state_dict(of_optimizer)
    train(again, network, 6, resumed, budget)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(tq.convert(model)(X), tq.convert(again)(X))


def test_a_shared_weight_learns_one_width():
    _, recipe, model = prepared(Tied, torch.arange(10))
    (wrapper,) = {module for name, module in model.named_modules() if name == "words"}
    wrapper.weights_quantizers["weight"].choose(4)
    learned = tq.learned_recipe(model, recipe)
    assert {rule.name: rule.weights["num_bits"] for rule in learned.rules} == {"words": 4, "head": 4}


def test_rules_keep_what_is_not_about_learned_widths():
    torch.manual_seed(0)
    rules = [
        {"name": "conv*", "weights": {**DQA, "method": "symmetric", "num_bits": 4}},
        {"name": "conv2", "weights": {"bits_candidates": [], "training_method": "STE", "schedule": {"start": 3}}},
    ]
    recipe = tq.Recipe({"num_bits": 8}, rules=rules)
    model = tq.prepare(Residual(), recipe, verbose=False)
    learned = tq.learned_recipe(model, recipe)
    assert [rule.to_dict() for rule in learned.rules] == [
        {"name": "conv*", "weights": {"method": "symmetric", "num_bits": 4}},
        {"name": "conv2", "weights": {"training_method": "STE", "schedule": {"start": 3, **STARTS}}},
        {"name": "conv1", "weights": {"num_bits": 4}},
    ]


STARTS = {"ramp": 0, "learn_from": 0}


def test_what_cannot_be_learned_is_refused():
    network, recipe, model = prepared()
    other = prepared(bits_candidates=[2, 8])[2]
    with pytest.raises(
        RuntimeError, match=r"conv1: quantizer of 'weight' must be as in the saved state \(num_bits \[8, 2"
    ):
        model.load_state_dict(other.state_dict())
    fixed = tq.prepare(network, tq.Recipe({"num_bits": 8}), verbose=False)
    blind = tq.prepare(network, tq.Recipe(DQA), verbose=False)
    bytes_, partial = tq.Budget(weight_bytes=300), {"conv1": {2: 1.0, 8: 3.0}}
    for action, told in (
        (lambda: tq.budget_regularizer(fixed, bytes_), "budget_regularizer: model must be one that learns widths"),
        (lambda: tq.fit_budget(network, bytes_), "fit_budget: model must be one that learns widths"),
        (lambda: tq.fit_budget(model, 300), "fit_budget: budget must be a Budget, got 300"),
        (lambda: tq.fit_budget(model, tq.Budget(weight_bytes=200)), "weight_bytes must be at least 208"),
        (lambda: tq.budget_regularizer(blind, tq.Budget(bit_operations=1e6)), "model must be prepared with data, for"),
        (
            lambda: tq.fit_budget(model, tq.Budget(latency=9, latency_table=partial)),
            r"one with a time for 4, got \{'conv1': \{2",
        ),
        (lambda: tq.learned_recipe(model, DQA), "learned_recipe: recipe must be a Recipe"),
        (lambda: tq.learned_recipe(nn.Sequential(model), recipe), "must be known to prepare, got 'a quantizer alone'"),
        (lambda: tq.reconstruct(model, [X]), "quantizers of weights must be of one width"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            action()


def test_a_configuration_without_its_width_among_the_candidates_is_refused():
    one = tq.TrainableQuantizerCandidateConfig(2, {tq.THRESHOLD: 1.0})
    for candidates, told in (
        (None, r"got \[\]"),
        ([one, one], r"got \[2, 2\]"),
        ([one], r"of 4 bits as weights_n_bits"),
    ):
        config = tq.TrainableQuantizerWeightsConfig(
            tq.QuantizationMethod.SYMMETRIC, 4, {tq.THRESHOLD: 1.0}, True, 0, True, tq.MIN_THRESHOLD, candidates
        )
        with pytest.raises(tq.QuantizerError, match=told):
            tq.DQASymmetricWeightsTrainableQuantizer(config)
