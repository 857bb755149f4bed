"""The widths that a search chooses fit the budget, and few others would be better."""

import random
from itertools import product

import pytest
from trainable_quantizers_core import Budget, QuantizerError
from trainable_quantizers_core.graph.bit_widths import choose, cost_of
from trainable_quantizers_core.graph.costs import OperationCost, costs_of
from trainable_quantizers_core.graph.operation import ModelGraph, Operation, Weight
from trainable_quantizers_core.search_bits import BitWidths

WIDTHS = (2, 4, 8)


def operation(name, elements=0, work=0, inputs=(("x",),)):
    return OperationCost(name, name if elements else "", elements, work, inputs, frozenset({name}))


def networks(counts):
    """Random ones of a chain in which two operations read each activation."""
    draw = random.Random(0)
    for _ in range(40):
        layers = [
            operation(f"l{at}", draw.randrange(10, 10**4), draw.randrange(10, 10**5), ((f"a{at // 2}",),))
            for at in range(4)
        ]
        units = [("weights", each.name) for each in layers]
        units += [("activations", f"a{at}") for at in range(2)] if counts == "bit_operations" else []
        errors = {
            unit: {b: draw.lognormvariate(0, 1.5) * draw.lognormvariate(0, 0.4) * 4.0**-b for b in WIDTHS}
            for unit in units
        }
        every = [dict(zip(units, widths, strict=True)) for widths in product(WIDTHS, repeat=len(units))]
        costs = [cost_of(layers, bits, Budget(**{counts: 1})) for bits in every]
        amount = min(costs) + draw.uniform(0.05, 0.9) * (max(costs) - min(costs))
        fitting = [bits for bits, cost in zip(every, costs, strict=True) if cost <= amount]
        yield layers, errors, Budget(**{counts: amount}), fitting


@pytest.mark.parametrize(("counts", "share"), [("weight_bytes", 1.0), ("bit_operations", 0.9)])
def test_the_choice_fits_and_is_the_best_of_all_where_widths_add_up_and_mostly_where_not(counts, share):
    ratios = []
    for layers, errors, budget, fitting in networks(counts):

        def error(bits, errors=errors):
            return sum(errors[unit][width] for unit, width in bits.items())

        found = choose(errors, layers, budget)
        assert found in fitting
        ratios.append(error(found) / min(map(error, fitting)))
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= share * len(ratios)
    assert max(ratios) < 1.5


def test_costs_are_those_of_the_formulas():
    layer, scores = operation("fc", 6, 12), operation("scores", 0, 5, (("x",), ("y",)))
    bits = {("weights", "fc"): 4, ("activations", "x"): 8, ("activations", "y"): 2}
    assert Budget(weight_bytes=1).of(layer, bits) == 6 * 4 / 8
    assert Budget(bit_operations=1).of(layer, bits) == 12 * 4 * 8
    assert Budget(bit_operations=1).of(scores, bits) == 5 * 8 * 2
    assert Budget(bit_operations=1).of(operation("float", 0, 3, ((),)), bits) == 3 * 32 * 32
    assert Budget(latency=1, latency_table={"fc": {4: 0.5}}).of(layer, bits) == 0.5
    assert Budget(latency=1, latency_table={"fc": {(4, 8): 0.7}}).of(layer, bits) == 0.7
    assert Budget(latency=1, latency_table={"other": {4: 0.5}}).of(layer, bits) == 0


def test_a_weight_that_two_operations_read_counts_once():
    words = Operation("words", "embedding", "Embedding", (0,), "words", (Weight("weight", 1, "words.weight"),))
    head = Operation("head", "linear", "Linear", (1,), "head", (Weight("weight", 0, "words.weight"),), work=40)
    graph = ModelGraph((Operation("x", "input", "input"), words, head))
    found = costs_of(graph, [(), ("weight",), ("weight",)], [False] * 3, lambda position, weight: 40)
    assert [(each.weights, each.elements) for each in found] == [("words", 40), ("words", 0)]


def test_more_budget_is_no_worse_and_all_of_it_is_the_widest():
    layers = [operation(f"l{at}", 100) for at in range(3)]
    errors = {("weights", f"l{at}"): {2: 1.0 + at, 4: 0.1 * (1 + at), 8: 0.0} for at in range(3)}
    sums = []
    for amount in (75, 100, 150, 200, 250, 300):
        chosen = choose(errors, layers, Budget(weight_bytes=amount))
        sums.append(sum(errors[unit][width] for unit, width in chosen.items()))
    assert sums == sorted(sums, reverse=True)
    assert set(chosen.values()) == {8}
    with pytest.raises(
        QuantizerError, match="weight_bytes must be at least 75, which the narrowest widths need, got 74"
    ):
        choose(errors, layers, Budget(weight_bytes=74))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "amount must be one of weight_bytes, bit_operations, latency"),
        ({"weight_bytes": 1, "latency": 1}, "amount must be one of"),
        ({"weight_bytes": 0}, "weight_bytes must be a positive number, got 0"),
        ({"weight_bytes": "many"}, "weight_bytes must be a positive number, got 'many'"),
        ({"latency": 1}, "latency_table must be given with a latency"),
        ({"weight_bytes": 1, "latency_table": {"a": {4: 1}}}, "latency_table must be given with a latency"),
        ({"latency": 1, "latency_table": {"a": 3}}, "latency_table must be a table for each layer"),
    ],
)
def test_a_budget_is_one_amount(given, told):
    with pytest.raises(QuantizerError, match=told):
        Budget(**given)


def test_a_table_of_latencies_knows_layers_and_widths():
    layers = [operation("hidden", 6)]
    with pytest.raises(QuantizerError, match="got 'hiden'; did you mean 'hidden'"):
        Budget(latency=1, latency_table={"hiden": {4: 1}}).check_table(layers, [4])
    with pytest.raises(QuantizerError, match=r"must be one with a time for \[4, 8\], got \{4: 1\} for 'hidden'"):
        Budget(latency=1, latency_table={"hidden": {4: 1}}).check_table(layers, [4, 8])
    in_float = operation("hidden", 6, inputs=((),))
    with pytest.raises(QuantizerError, match="must be one with times for widths of weights alone"):
        Budget(latency=1, latency_table={"hidden": {(4, 4): 1}}).check_table([in_float], [4])
    with pytest.raises(QuantizerError, match=r"must be one with a time for \[\(4, 4\)\]"):
        Budget(latency=1, latency_table={"hidden": {(4, 8): 1}}).check_table(layers, [4])


def test_the_table_says_what_was_measured_and_chosen():
    unit = ("weights", "fc")
    text = str(BitWidths({unit: {4: 0.01, 8: 0.0}}, {unit: 4}, "weight_bytes", 400, 300, 0.1))
    assert text.splitlines() == [
        "layer  of       4 bits  8 bits  chosen",
        "fc     weights    20.0     inf       4",
        "Output SQNR of each alone, dB. All together: 10.0 dB, with 300 of 400 weight bytes.",
    ]
