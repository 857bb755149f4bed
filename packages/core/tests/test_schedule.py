"""When quantizers begin to quantize, and when their parameters learn."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainable_quantizers_core import QuantizationSchedule, QuantizerError, Recipe, WeightsScheme
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.schedule import LAST_STEP
from trainable_quantizers_core.quantizer.serialization import decode, encode

STEPS = st.integers(0, LAST_STEP)


def share(schedule, step):
    return float(schedule.share(NUMPY_OPS, np.float32(step)))


def test_without_arguments_everything_happens_from_the_first_step():
    schedule = QuantizationSchedule()
    assert share(schedule, 0) == 1
    assert schedule.learns(0)
    assert schedule.learns(LAST_STEP)
    assert not schedule.holds


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (QuantizationSchedule(start=2), [0, 0, 1, 1, 1]),
        (QuantizationSchedule(ramp=1), [0.5, 1, 1, 1, 1]),
        (QuantizationSchedule(start=1, ramp=3), [0, 0.25, 0.5, 0.75, 1]),
    ],
    ids=str,
)
def test_quantization_begins_at_start_and_grows_over_the_ramp(schedule, shares):
    assert [share(schedule, step) for step in range(5)] == shares


@given(STEPS, STEPS, STEPS)
def test_the_share_stays_within_its_bounds_and_is_exactly_one_from_full_from_on(start, ramp, step):
    schedule = QuantizationSchedule(start, ramp)
    found = share(schedule, step)
    assert 0 <= found <= 1
    if step >= schedule.full_from:
        assert found == 1
    if step < start:
        assert found == 0


def test_the_temperature_of_attention_falls_from_one_to_a_hundredth_while_it_ramps():
    schedule = QuantizationSchedule(start=2, ramp=4)
    found = [float(schedule.temperature(NUMPY_OPS, np.float32(step))) for step in (0, 2, 3, 4, 6, 9)]
    np.testing.assert_allclose(found, [1, 1, 10**-0.5, 0.1, 0.01, 0.01], rtol=1e-6)


def test_parameters_learn_between_the_two_steps():
    schedule = QuantizationSchedule(learn_from=1, learn_until=3)
    assert [bool(schedule.learns(step)) for step in range(5)] == [False, True, True, False, False]
    assert schedule.learns(np.arange(5)).tolist() == [False, True, True, False, False]
    assert schedule.holds


MISTAKES = {
    "a fraction": ({"start": 0.5}, "QuantizationSchedule: start must be an integer in 0..16777216, got 0.5"),
    "below zero": ({"ramp": -1}, "ramp must be an integer in 0..16777216, got -1"),
    "beyond what is counted": ({"learn_from": 2**25}, "learn_from must be an integer"),
    "a truth": ({"start": True}, "start must be an integer in 0..16777216, got True; count steps of the optimizer"),
    "nothing between": (
        {"learn_from": 5, "learn_until": 5},
        "learn_until must be after learn_from (5), got 5; use freeze for parameters that never learn",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    arguments, text = MISTAKES[mistake]
    with pytest.raises(QuantizerError, match=re.escape(text)):
        QuantizationSchedule(**arguments)
    with pytest.raises(QuantizerError, match=re.escape(text.replace(";", " in schedule;"))):
        WeightsScheme(schedule=arguments)


@given(st.builds(QuantizationSchedule, STEPS, STEPS, st.integers(0, 99), st.none() | st.integers(100, LAST_STEP)))
def test_a_schedule_survives_json(schedule):
    assert decode(json.loads(json.dumps(encode(schedule)))) == schedule


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_recipe_keeps_its_schedules_in_a_file(tmp_path, suffix):
    recipe = Recipe(
        weights={"schedule": {"learn_until": 900}},
        activations={"schedule": QuantizationSchedule(start=100, ramp=50)},
        rules=[{"position": "first", "weights": {"schedule": {"start": 7}}}],
    )
    path = tmp_path / f"recipe.{suffix}"
    recipe.to_file(path)
    again = Recipe.from_file(path)
    assert again == recipe
    assert again.weights.schedule == QuantizationSchedule(learn_until=900)
    assert again.activations.schedule == QuantizationSchedule(100, 50)


def test_a_file_with_a_misspelt_key_names_the_nearest(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("[activations]\nschedule = { strat = 100 }\n")
    with pytest.raises(QuantizerError, match=r"'strat'.*schedule.*did you mean 'start'"):
        Recipe.from_file(path)


def test_a_rule_can_take_a_schedule_back():
    recipe = Recipe(weights={"schedule": {"start": 5}}, rules=[{"name": "a", "weights": {"schedule": {}}}])
    assert recipe.rules[0].weights == {"schedule": QuantizationSchedule()}


@pytest.mark.parametrize(
    ("schedule", "step", "power"),
    [
        (QuantizationSchedule(start=10, ramp=90), 0, 20),
        (QuantizationSchedule(start=10, ramp=90), 10, 20),
        (QuantizationSchedule(start=10, ramp=90), 55, 11),
        (QuantizationSchedule(start=10, ramp=90), 100, 2),
        (QuantizationSchedule(start=10, ramp=90), 1000, 2),
        (QuantizationSchedule(start=10), 10, 20),
    ],
)
def test_the_power_of_the_rounding_regularizer_falls_while_the_schedule_ramps(schedule, step, power):
    assert schedule.rounding_power(NUMPY_OPS, np.float32(step)) == power
