"""Flip rates of weights, and freezing of those that oscillate."""

import json
import re

import numpy as np
import pytest
from trainable_quantizers_core import Oscillations, QuantizerError, Recipe, WeightsScheme
from trainable_quantizers_core.constants import FLIP_RATE, MEAN_LEVEL, MOVES, UNIT
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.oscillations import level_and_direction
from trainable_quantizers_core.quantizer.serialization import decode, encode


def run(rule, levels, units=None):
    """(weights, state) after each step of a weight with these levels, whose values are 100 times the step's number."""
    one = np.ones(1, np.float32)
    state = rule.variables((1,), None if units is None else one)
    for step, level in enumerate(levels):
        unit = one if units is None else np.float32(units[step]) * one
        weight, state = rule.followed(NUMPY_OPS, 100 * step * one, level * one, unit, state, np.float32(step), True)
        state = state if units is None else {**state, UNIT: unit}
        yield float(weight[0]), {name: float(value[0]) for name, value in state.items()}


@pytest.mark.parametrize(
    ("levels", "oscillations"),
    [
        ([1, 1, 1], [0, 0, 0]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        ([0, 1, 0, 1, 0], [0, 0, 1, 1, 1]),
        ([0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 0, 1]),
        ([5, 2, -3, 4, 5, 4], [0, 0, 0, 1, 0, 1]),
    ],
)
def test_an_oscillation_is_a_move_against_the_last_one(levels, oscillations):
    rate, mean = 0.0, float(levels[0])
    for (weight, state), level, oscillates in zip(run(Oscillations(0.25), levels), levels, oscillations, strict=True):
        rate, mean = 0.75 * rate + 0.25 * oscillates, 0.75 * mean + 0.25 * level
        assert (state[FLIP_RATE], state[MEAN_LEVEL]) == (rate, mean)
        assert weight % 100 == 0  # as it was
        assert level_and_direction(NUMPY_OPS, np.float32(state[MOVES]))[0] == level


def test_a_weight_that_oscillates_is_frozen_at_the_level_that_it_was_in_most():
    found = list(run(Oscillations(0.25, freeze_above=0.3), [3, 3, 2, 3, 2, 3, 9, -9]))
    assert [weight for weight, _ in found] == [0, 100, 200, 300, 3, 3, 3, 3]
    assert len({state[FLIP_RATE] for _, state in found[4:]}) == 1


def test_the_limit_falls_and_nothing_is_frozen_before_the_start():
    rule = Oscillations(freeze_above=0.25, anneal_from=0.75, start=2, ramp=2)
    limits = [float(rule.limit(NUMPY_OPS, np.float32(step))) for step in range(6)]
    assert limits == [np.inf, np.inf, 0.75, 0.5, 0.25, 0.25]
    constant = Oscillations(freeze_above=0.25, start=1)
    assert [float(constant.limit(NUMPY_OPS, np.float32(step))) for step in range(3)] == [np.inf, 0.25, 0.25]
    oscillating = [1, 2, 1, 2, 1, 2]
    first = [
        next(step for step, (weight, _) in enumerate(run(rule, oscillating)) if weight % 100)
        for rule in (Oscillations(0.5, 0.1), Oscillations(0.5, 0.1, start=4), Oscillations(0.5, 0.1, 0.8, 0, 6))
    ]
    assert first == [2, 4, 3]


def test_a_power_of_two_that_changes_moves_no_level_and_frozen_weights_keep_their_value():
    levels, units = [4, 2, 4, 2, 4, 3], [1, 2, 1, 2, 1, 1]
    for _, state in run(Oscillations(0.25), levels, units):
        assert state[FLIP_RATE] == 0
    assert state[MEAN_LEVEL] == 3.75
    frozen = [weight for weight, _ in run(Oscillations(0.5, 0.3), [3, 2, 3, 2, 1, 6, 3], [1, 1, 1, 1, 2, 0.5, 1])]
    assert frozen[3:] == [3, 4, 3, 3]  # 3 lies between two levels of step 2


def test_rules_survive_files_and_a_layer_may_have_none(tmp_path):
    rule = Oscillations(0.05, 0.01, 0.1, 10, 20)
    assert decode(json.loads(json.dumps(encode(rule)))) == rule
    fields = {"num_bits": 4, "oscillations": rule.to_dict()}
    recipe = Recipe(fields, rules=[{"name": "head", "weights": {"oscillations": False}}])
    assert recipe.weights == WeightsScheme(num_bits=4, oscillations=rule)
    for name in ("recipe.toml", "recipe.json"):
        recipe.to_file(tmp_path / name)
        again = Recipe.from_file(tmp_path / name)
        assert again == recipe
        assert again.rules[0].weights == {"oscillations": False}
    assert WeightsScheme(oscillations=False) == WeightsScheme()


MISTAKES = {
    "a momentum of 1": ({"momentum": 1.0}, "Oscillations: momentum must be above 0 and below 1, got 1.0"),
    "no momentum": ({"momentum": None}, "momentum must be above 0 and below 1, got None"),
    "a rate of 0": ({"freeze_above": 0}, "freeze_above must be above 0 and below 1, got 0"),
    "a flag": ({"freeze_above": True}, "freeze_above must be above 0 and below 1, got True"),
    "a broken step": ({"freeze_above": 0.1, "start": 1.5}, "start must be an integer in 0..16777216, got 1.5"),
    "a negative ramp": ({"freeze_above": 0.1, "ramp": -1}, "ramp must be an integer in 0..16777216, got -1"),
    "nothing to start": ({"start": 3}, "freeze_above must be given for anneal_from, start and ramp, got None"),
    "no ramp": ({"freeze_above": 0.1, "anneal_from": 0.2}, "anneal_from must be above freeze_above, together with"),
    "a ramp alone": ({"freeze_above": 0.1, "ramp": 5}, "f falls from anneal_from to freeze_above over ramp steps"),
    "a rise": ({"freeze_above": 0.2, "anneal_from": 0.1, "ramp": 5}, "anneal_from must be above freeze_above"),
    "an unknown key": (
        {"freeze": 0.1},
        "key must be a known one, got 'freeze' in oscillations; did you mean",
    ),
    "no table": (0.1, "Oscillations: oscillations must be a table, or false, got 0.1 in oscillations"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    given, text = MISTAKES[mistake]
    with pytest.raises(QuantizerError, match=re.escape(text)):
        WeightsScheme(oscillations=given)
