import dataclasses
import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainable_quantizers_core import (
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    THRESHOLD,
    ActivationsScheme,
    CalibrationMethod,
    Granularity,
    Layer,
    LayerRule,
    QuantizationMethod,
    QuantizerError,
    Recipe,
    TrainingMethod,
    WeightsScheme,
)

NPU = """
name = "npu"

[weights]
method = "power_of_two"
num_bits = 4
granularity = "per_channel"
training_method = "LSQ"
calibration = "mse"

[activations]
method = "Power_Of_Two"
num_bits = 8
training_method = "ste"
calibration = "percentile"
percentile = 99.9

[[rules]]
name = "features.*"
type = "depthwise_conv"
weights = { num_bits = 8 }

[[rules]]
position = "first"
weights = { num_bits = 6, freeze = true }
activations = false

[[rules]]
name = "head"
skip = true
"""

LAYERS = (
    Layer("features.0", ("conv", "Conv2d"), ("weight",)),
    Layer("features.1", ("depthwise_conv", "Conv2d"), ("weight",)),
    Layer("features.relu", ("activation", "ReLU"), activation=True),
    Layer("flatten", ("reshape", "Flatten")),
    Layer("neck[0]", ("linear", "Linear"), ("weight",), activation=True),
    Layer("head", ("linear", "Linear"), ("weight",), activation=True),
)


def read(tmp_path, text, name="npu.toml"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return Recipe.from_file(path)


def bits(recipe, layers=LAYERS):
    """Bits of weights and activations by layer."""
    plans = recipe.plan(layers)
    return {p.layer.name: tuple(s and s.num_bits for s in (p.weights, p.activations)) for p in plans}


def test_a_file_says_what_the_objects_say(tmp_path):
    assert read(tmp_path, NPU) == Recipe(
        name="npu",
        weights=WeightsScheme(QuantizationMethod.POWER_OF_TWO, 4, TrainingMethod.LSQ, CalibrationMethod.MSE),
        activations=ActivationsScheme(
            num_bits=8,
            training_method=TrainingMethod.STE,
            calibration=CalibrationMethod.PERCENTILE,
            percentile=99.9,
        ),
        rules=(
            LayerRule("features.*", "depthwise_conv", weights={"num_bits": 8}),
            LayerRule(position="first", weights={"num_bits": 6, "freeze": True}, activations=False),
            LayerRule("head", skip=True),
        ),
    )


def test_defaults_are_those_of_the_power_of_two_accelerator():
    scheme = WeightsScheme()
    assert (scheme.method, scheme.num_bits) == (QuantizationMethod.POWER_OF_TWO, 8)
    assert (scheme.granularity, scheme.training_method) == (Granularity.PER_CHANNEL, TrainingMethod.LSQ)
    assert (scheme.calibration, scheme.percentile, scheme.freeze) == (CalibrationMethod.MSE, 99.99, False)


def test_the_plan_of_the_file(tmp_path):
    plans = read(tmp_path, NPU).plan(LAYERS)
    assert [plan.layer for plan in plans] == list(LAYERS)
    assert [(p.weights and p.weights.num_bits, p.activations and p.activations.num_bits, p.reason) for p in plans] == [
        (6, None, "rule 2 (position 'first')"),
        (8, None, "rule 1 (name 'features.*', type 'depthwise_conv')"),
        (None, 8, "default"),
        (None, None, "nothing to quantize"),
        (4, 8, "default"),
        (None, None, "skipped by rule 3 (name 'head')"),
    ]
    assert plans[0].weights == WeightsScheme(num_bits=6, freeze=True)


RULES = [  # rules, layer, bits of its weights and activations, reason
    ([LayerRule("head", weights={"num_bits": 2})], "head", (2, 8), "rule 1 (name 'head')"),
    ([LayerRule("*", weights={"num_bits": 2}), LayerRule("head", weights={"freeze": True})], "head", (2, 8), None),
    ([LayerRule("*", weights={"num_bits": 2}), LayerRule("head", weights={"num_bits": 3})], "head", (3, 8), None),
    ([LayerRule("head", skip=True), LayerRule("head", weights={})], "head", (4, None), None),
    ([LayerRule("head", weights=False)], "head", (None, 8), "rule 1 (name 'head')"),
    ([LayerRule(position="last", weights={"num_bits": 2})], "head", (2, 8), "rule 1 (position 'last')"),
    ([LayerRule(type="CONV2D", weights={"num_bits": 2})], "features.0", (2, None), "rule 1 (type 'CONV2D')"),
    ([LayerRule(type="conv*", weights={"num_bits": 2})], "features.1", (2, None), None),
    ([LayerRule("neck[0]", weights={"num_bits": 2})], "neck[0]", (2, 8), None),
    ([LayerRule("neck[[]?]", weights={"num_bits": 2})], "neck[0]", (2, 8), None),
    (
        [LayerRule("h*", weights=False), LayerRule(type="linear", activations={"num_bits": 2})],
        "head",
        (None, 2),
        "rule 1 (name 'h*'), rule 2 (type 'linear')",
    ),
    ([LayerRule("head", weights=WeightsScheme(num_bits=3))], "head", (3, 8), None),
]


@pytest.mark.parametrize(("rules", "layer", "wanted", "reason"), RULES)
def test_later_rules_override_field_by_field(rules, layer, wanted, reason):
    recipe = Recipe(WeightsScheme(num_bits=4), ActivationsScheme(), rules)
    assert bits(recipe)[layer] == wanted
    reasons = {plan.layer.name: plan.reason for plan in recipe.plan(LAYERS)}
    assert reason is None or reasons[layer] == reason


def test_an_absent_section_is_float_until_a_rule_turns_it_on():
    recipe = Recipe(weights={"num_bits": 4}, rules=[LayerRule(type="activation", activations={"num_bits": 6})])
    assert bits(recipe)["features.relu"] == (None, 6)
    assert bits(recipe)["head"] == (4, None)
    assert recipe.plan(LAYERS)[2].activations == ActivationsScheme(num_bits=6)


def test_the_only_layer_with_weights_is_first_and_last():
    layers = [LAYERS[2], LAYERS[0], LAYERS[3]]
    assert bits(Recipe.preset("mixed_w4a8"), layers)["features.0"] == (8, None)


@pytest.mark.parametrize("name", Recipe.presets())
@pytest.mark.parametrize("suffix", ["toml", "json", "TOML"])
def test_presets_plan_and_survive_files(tmp_path, name, suffix):
    recipe = Recipe.preset(name)
    assert recipe.name == name
    assert any(plan.weights for plan in recipe.plan(LAYERS))
    recipe.to_file(tmp_path / f"recipe.{suffix}")
    assert Recipe.from_file(tmp_path / f"recipe.{suffix}") == recipe
    assert len(list(tmp_path.iterdir())) == 1


PRESETS = [
    ("power_of_two_8bit", QuantizationMethod.POWER_OF_TWO, 8, 8, 8, QuantizationMethod.POWER_OF_TWO),
    ("power_of_two_4bit", QuantizationMethod.POWER_OF_TWO, 8, 4, 4, QuantizationMethod.POWER_OF_TWO),
    ("int8_per_channel", QuantizationMethod.SYMMETRIC, 8, 8, 8, QuantizationMethod.UNIFORM),
    ("mixed_w4a8", QuantizationMethod.SYMMETRIC, 8, 4, 8, QuantizationMethod.UNIFORM),
]


@pytest.mark.parametrize(("name", "method", "ends", "between", "activations", "activations_method"), PRESETS)
def test_presets_are_what_their_names_say(name, method, ends, between, activations, activations_method):
    plans = {plan.layer.name: plan for plan in Recipe.preset(name).plan(LAYERS)}
    assert [plans[layer].weights.num_bits for layer in ("features.0", "neck[0]", "head")] == [ends, between, ends]
    assert {plan.weights.method for plan in plans.values() if plan.weights} == {method}
    assert {plan.weights.granularity for plan in plans.values() if plan.weights} == {Granularity.PER_CHANNEL}
    assert plans["features.relu"].activations.num_bits == activations
    assert plans["features.relu"].activations.method is activations_method


FIELDS = {
    "method": st.sampled_from(["power_of_two", "SYMMETRIC", QuantizationMethod.UNIFORM]),
    "num_bits": st.integers(2, 16),
    "training_method": st.sampled_from(["ste", "LSQ", TrainingMethod.STE, "adaround", "mine"]),
    "calibration": st.sampled_from([*CalibrationMethod, "mse"]),
    "percentile": st.floats(51, 100),
    "freeze": st.booleans(),
}
ACTIVATIONS = st.fixed_dictionaries({}, optional=FIELDS)
WEIGHTS = st.fixed_dictionaries({}, optional={**FIELDS, "granularity": st.sampled_from(Granularity)})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
CONDITIONS = st.fixed_dictionaries(
    {"name": TEXT}, optional={"type": TEXT, "position": st.sampled_from(["first", "last"])}
)
CHANGES = st.one_of(
    st.just({"skip": True}),
    st.fixed_dictionaries(
        {"weights": st.just(False) | WEIGHTS}, optional={"activations": st.just(False) | ACTIVATIONS}
    ),
)
RECIPES = st.builds(
    Recipe,
    weights=st.none() | WEIGHTS.map(lambda values: WeightsScheme(**values)),
    activations=st.none() | ACTIVATIONS.map(lambda values: ActivationsScheme(**values)),
    rules=st.lists(st.builds(lambda condition, change: LayerRule(**condition, **change), CONDITIONS, CHANGES)),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)


@given(RECIPES)
def test_round_trips_lose_nothing(tmp_path_factory, recipe):
    folder = tmp_path_factory.mktemp("recipes")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for suffix in (".toml", ".json"):
        recipe.to_file(folder / f"recipe{suffix}")
        assert Recipe.from_file(folder / f"recipe{suffix}") == recipe


def test_candidates_are_sorted_and_a_rule_can_take_them_back(tmp_path):
    schedule = {"ramp": 9}
    weights = {"training_method": "dqa", "bits_candidates": [8, 2, 8], "schedule": schedule}
    fixed = {"training_method": "LSQ", "bits_candidates": [], "num_bits": 6}
    recipe = Recipe(weights, rules=[LayerRule(name="head", weights=fixed)])
    assert recipe.weights.bits_candidates == (2, 8)
    recipe.to_file(tmp_path / "recipe.toml")
    assert Recipe.from_file(tmp_path / "recipe.toml") == recipe
    plans = {plan.layer.name: plan.weights for plan in recipe.plan(LAYERS) if plan.weights}
    assert plans["head"].num_bits == 6
    assert not plans["head"].bits_candidates
    each = {bits: {"threshold": float(bits)} for bits in (2, 8)}
    config = recipe.weights.config(each[8], 0, each)
    found = {candidate.n_bits: candidate.quantization_params for candidate in config.weights_bits_candidates}
    assert found == each


METHODS = "power_of_two, symmetric, uniform, lut_power_of_two, lut_symmetric"
LEARNED = "[weights]\ntraining_method = 'DQA'\nbits_candidates = [2, 8]"
FILES = [  # what is written in npu.toml, what the message says
    ("[weigths]", "Recipe: key must be a known one, got 'weigths' in npu.toml; did you mean 'weights'?."),
    (
        "[weights]\nnum_bit = 4",
        "WeightsScheme: key must be a known one, got 'num_bit' in npu.toml, [weights]; did you mean 'num_bits'?.",
    ),
    (
        "[activations]\ngranularity = 'per_channel'",
        "ActivationsScheme: key must be a known one, got 'granularity' in npu.toml, [activations]; known: method, ",
    ),
    (
        "[weights]\nmethod = 'power_of_to'",
        f"WeightsScheme: method must be one of {METHODS}, got 'power_of_to' in npu.toml, [weights]; "
        "did you mean 'power_of_two'?.",
    ),
    (
        "[weights]\nmethod = 'lut_pot_quantizer'",
        f"method must be one of {METHODS}, got",
    ),
    ("[weights]\nnum_bits = 1", "num_bits must be an integer in 2..16, got 1 in npu.toml, [weights]; these are"),
    ("[weights]\nnum_bits = 17", "num_bits must be an integer in 2..16, got 17"),
    ("[weights]\nnum_bits = '8'", "num_bits must be an integer in 2..16, got '8'"),
    ("[weights]\nnum_bits = true", "num_bits must be an integer in 2..16, got True"),
    ("[weights]\npercentile = 0.99", "percentile must be above 50 and at most 100, got 0.99"),
    ("[weights]\npercentile = nan", "percentile must be above 50 and at most 100, got nan"),
    ("[weights]\nfreeze = 1", "freeze must be true or false, got 1 in npu.toml, [weights]; write it without quotes."),
    ("[weights]\ntraining_method = 3", "training_method must be one of ste, lsq, adaround, dqa, got 3"),
    ("[weights]\nbits_candidates = 4", "bits_candidates must be a list of widths, got 4 in npu.toml, [weights]"),
    ("[weights]\nbits_candidates = [1]", "num_bits must be an integer in 2..16, got 1 in npu.toml, [weights], bits_"),
    ("[weights]\ntraining_method = 'DQA'", "bits_candidates must be given with DQA, got None; write bits_candidates"),
    ("[weights]\nbits_candidates = [2, 8]", "training_method must be DQA with bits_candidates, got "),
    (f"{LEARNED}\nnum_bits = 4", "num_bits must be one of bits_candidates [2, 8], got 4; it is the width in use until"),
    (LEARNED, "schedule must be one with a ramp for DQA, got None; write schedule = { ramp = 1000 }: widths are"),
    ("[weights]\ngranularity = 'per_chanel'", "got 'per_chanel' in npu.toml, [weights]; did you mean 'per_channel'?."),
    ("[weights]\ncalibration = 'max'", "calibration must be one of min_max, percentile, mse, lsq, got 'max'"),
    ("weights = 8", "WeightsScheme: section must be a table of keys, got 8 in npu.toml, [weights]; known: method"),
    ("name = 8", "Recipe: name must be a string, got 8 in npu.toml; write it in quotes."),
    ("[rules]\nname = 'a'", "Recipe: rules must be a list, got {'name': 'a'} in npu.toml; write [[rules]] above each."),
    (
        "[[rules]]\nskip = true",
        "LayerRule: rule must be one with a condition, got {'skip': True} in npu.toml, rule 1; give name, type or",
    ),
    (
        "[[rules]]\nname = 'a'",
        "LayerRule: rule must be one change, got {'name': 'a'} in npu.toml, rule 1; give weights",
    ),
    ("[[rules]]\nname = 'a'\nskip = true\nweights = false", "rule must be one change, got {'name': 'a', 'skip': True,"),
    ("[[rules]]\nname = 'a'\nskip = 'yes'", "skip must be true or false, got 'yes' in npu.toml, rule 1"),
    ("[[rules]]\nname = ''\nskip = true", "name must be a string, got ''"),
    (
        "[[rules]]\nposition = 'frist'\nskip = true",
        "position must be 'first' or 'last', got 'frist' in npu.toml, rule 1; did you mean 'first'?.",
    ),
    (
        "[[rules]]\nname = 'a'\nskip = true\n[[rules]]\nnmae = 'b'",
        "got 'nmae' in npu.toml, rule 2; did you mean 'name'",
    ),
    ("[[rules]]\nname = 'a'\nweights = true", "weights must be fields that differ, or false, got True"),
    (
        "[[rules]]\nname = 'a'\nweights = { bits = 8 }",
        "got 'bits' in npu.toml, rule 1, weights; did you mean 'num_bits'?.",
    ),
    ("weights = ", "Recipe.from_file: file must be TOML text, got"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    with pytest.raises(QuantizerError, match=re.escape(message)):
        read(tmp_path, text)


def test_bytes_that_are_no_text_and_unknown_endings_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{}")
    with pytest.raises(QuantizerError, match=r"file must be JSON text, got .*a\.json'; the parser says: 'utf-8'"):
        Recipe.from_file(tmp_path / "a.json")
    (tmp_path / "deep.json").write_text("[" * 50_000)
    with pytest.raises(QuantizerError, match=r"file must be JSON text, got .*deep\.json'"):
        Recipe.from_file(tmp_path / "deep.json")
    for act in (Recipe.from_file, Recipe.preset("mixed_w4a8").to_file):
        with pytest.raises(QuantizerError, match=r"path must be that of a \.toml or \.json file, got 'a.yaml'"):
            act("a.yaml")
    with pytest.raises(QuantizerError, match=r"got \[\] in a\.json; known: weights"):
        (tmp_path / "a.json").write_text("[]")
        Recipe.from_file(tmp_path / "a.json")


def test_an_unknown_preset_is_refused():
    message = "Recipe.preset: name must be that of a shipped recipe, got 'mixed_w4a4'; did you mean 'mixed_w4a8'?."
    with pytest.raises(QuantizerError, match=re.escape(message)):
        Recipe.preset("mixed_w4a4")


UNMATCHED = [  # a rule that matches nothing, what the message says
    (
        {"name": "haed"},
        "Recipe 'npu': rule 1 must be one that matches a layer, got \"name 'haed'\"; did you mean 'head'?.",
    ),
    ({"type": "Depthwise_Con"}, "got \"type 'Depthwise_Con'\"; did you mean 'depthwise_conv'?."),
    ({"type": "gru"}, "known: conv, Conv2d, depthwise_conv, activation, ReLU, reshape, Flatten, linear, Linear."),
    (
        {"name": "features.*", "type": "linear"},
        "no layer meets all conditions (features.0 is conv/Conv2d; features.1 is depthwise_conv/Conv2d; ",
    ),
    ({"position": "first", "name": "head"}, "no layer meets all conditions (the first is features.0)."),
]


@pytest.mark.parametrize(("conditions", "message"), UNMATCHED)
def test_a_rule_that_matches_no_layer_is_refused(conditions, message):
    recipe = Recipe(WeightsScheme(), rules=[LayerRule(**conditions, skip=True)], name="npu")
    with pytest.raises(QuantizerError, match=re.escape(message)):
        recipe.plan(LAYERS)


def test_a_position_needs_a_layer_with_weights():
    with pytest.raises(QuantizerError, match=re.escape("got \"position 'first'\"; no layer has weights.")):
        Recipe(activations={}, rules=[LayerRule(position="first", skip=True)]).plan(LAYERS[2:4])


@pytest.mark.parametrize(
    ("recipe", "layers"),
    [
        (Recipe(), LAYERS),
        (Recipe(WeightsScheme(), rules=[LayerRule("*", skip=True)]), LAYERS),
        (Recipe(WeightsScheme()), LAYERS[2:3]),
        (Recipe(WeightsScheme(), ActivationsScheme()), ()),
    ],
)
def test_a_recipe_that_quantizes_nothing_is_refused(recipe, layers):
    with pytest.raises(QuantizerError, match=r"Recipe: recipe must be one that quantizes something, got \["):
        recipe.plan(layers)


def test_advice_about_a_large_model_stays_short():
    layers = [Layer(f"block{i}", ("conv",), ("weight",)) for i in range(100)]
    with pytest.raises(QuantizerError, match=r"known: block0, .*, block19 and 80 more\.$"):
        Recipe(WeightsScheme(), rules=[LayerRule("xyz", skip=True)]).plan(layers)


def test_schemes_make_configurations():
    config = WeightsScheme("symmetric", 4).config({THRESHOLD: [1.0, 2.0]}, channel_axis=-1)
    assert config.weights_quantization_method is QuantizationMethod.SYMMETRIC
    assert (config.weights_n_bits, config.weights_channels_axis, config.weights_per_channel_threshold) == (4, -1, True)
    assert config.weights_quantization_params == {THRESHOLD: [1.0, 2.0]}
    per_tensor = WeightsScheme("uniform", granularity="per_tensor").config({RANGE_MIN: -1.0, RANGE_MAX: 2.0})
    assert not per_tensor.weights_per_channel_threshold
    activation = ActivationsScheme(num_bits=3).config({THRESHOLD: 1.0, SIGNED: False})
    assert (activation.activation_n_bits, activation.activation_quantization_params[SIGNED]) == (3, False)
    with pytest.raises(QuantizerError, match="weights_channels_axis must be an integer"):
        WeightsScheme().config({THRESHOLD: 1.0})


def test_recipes_do_not_change():
    for thing in (Recipe(), WeightsScheme(), ActivationsScheme(), LayerRule("a", skip=True)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.name = "other"
