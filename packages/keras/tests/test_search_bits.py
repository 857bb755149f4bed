"""A search gives an ordinary recipe: it fits the budget, and reads as it was written."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import ROWS, residual, subclassed
from trainable_quantizers_keras.inventory import quantizers_of

keras = tf.keras
L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
RECIPE = tq.Recipe({"num_bits": 8}, {"num_bits": 8}, rules=[tq.LayerRule(position="first", weights={"num_bits": 4})])
SIZES = {"first": 216, "second": 576, "head": 40}
LATENCY = {name: {(w, a): size * (w + a) for w in (2, 4, 8) for a in (2, 4, 8)} for name, size in SIZES.items()}
WORK = {"first": 216 * 64, "second": 576 * 64, "head": 40}  # for one example
READ = {"first": "image", "second": "first_relu", "head": "mean"}


def network():
    keras.utils.set_random_seed(0)
    return residual()


def widths_of(model):
    return {(each.layer, each.attribute): each.quantizer.specification.grid.num_bits for each in quantizers_of(model)}


def pairs_of(model):
    """Of each layer, the widths of its weights and of its input."""
    found = widths_of(model)
    return {name: (found[name, "kernel"], found[READ[name], "output"]) for name in SIZES}


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
    given = network()
    found = tq.search_bits(given, RECIPE, [X], budget, verbose=False)
    model = tq.prepare(given, found, [X], verbose=False)
    pairs = pairs_of(model)
    assert cost(dict.fromkeys(SIZES, (4, 4))) < cost(pairs) <= budget.amount < cost(dict.fromkeys(SIZES, (8, 8)))
    assert len({bits for pair in pairs.values() for bits in pair}) > 1
    found.to_file(tmp_path / "found.toml")
    again = tq.prepare(given, tq.Recipe.from_file(tmp_path / "found.toml"), [X], verbose=False)
    assert widths_of(again) == widths_of(model)
    np.testing.assert_array_equal(again(X), model(X))
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))


def test_what_moves_the_outputs_most_gets_the_bits():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(64, "relu", name="a"), L.Dense(64, "relu", name="b"), L.Dense(8, name="c")]
    given = keras.Sequential([keras.Input((8,)), *layers])
    x = np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
    layers[1].kernel.assign(layers[1].kernel * 0.01)
    layers[1].bias.assign(x[:, 0])
    found = tq.search_bits(given, tq.Recipe({"num_bits": 4}), [x], tq.Budget(weight_bytes=2100), (2, 8), verbose=False)
    model = tq.prepare(given, found, [x], verbose=False)
    assert widths_of(model) == {("a", "kernel"): 8, ("b", "kernel"): 2, ("c", "kernel"): 8}


def test_rules_hold_for_a_model_that_is_opened_again():
    given = subclassed()
    found = tq.search_bits(given, RECIPE, [ROWS], tq.Budget(bit_operations=9_000), (2, 8), verbose=False)
    assert set(widths_of(tq.prepare(given, found, [ROWS], verbose=False)).values()) >= {2, 8}


def test_layers_in_float_stay_in_float_and_the_model_stays():
    given = network()
    before = given.get_weights()
    recipe = tq.Recipe({"num_bits": 8}, rules=[tq.LayerRule(name="second", skip=True)])
    found = tq.search_bits(given, recipe, X, tq.Budget(weight_bytes=130), fold_batch_norm=True, verbose=False)
    model = tq.prepare(given, found, [X], fold_batch_norm=True, verbose=False)
    assert {name for name, _ in widths_of(model)} == {"first", "head"}
    assert all(map(np.array_equal, given.get_weights(), before))


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
        ((learning, [X], budget), r"widths must be among bits_candidates, \[2, 8\], got \[2, 4, 8\] for first"),
        ((RECIPE, [X], tq.Budget(weight_bytes=200)), "weight_bytes must be at least 208, which the narrowest"),
        ((RECIPE, 5, budget), "search_bits: data must be an iterable of batches"),
        ((RECIPE, [], budget), "calibration_data must be at least one batch"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            tq.search_bits(model, *arguments)
