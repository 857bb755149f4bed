import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from trainable_quantizers_core import (
    MIN_THRESHOLD,
    THRESHOLD,
    QuantizationMethod,
    QuantizerError,
    Recipe,
    RoundingRule,
    ThresholdDomain,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
)

METHOD = QuantizationMethod.SYMMETRIC
WEIGHTS = (METHOD, 8, {THRESHOLD: 2.0}, True, 3, True, MIN_THRESHOLD)
ACTIVATION = (QuantizationMethod.UNIFORM, 8, {THRESHOLD: 2.0}, True, MIN_THRESHOLD)
CANDIDATES = [TrainableQuantizerCandidateConfig(bits, {THRESHOLD: np.float32([bits, 0.1])}) for bits in (2, 4)]


def weights(**changes):
    return dataclasses.replace(TrainableQuantizerWeightsConfig(*WEIGHTS), **changes)


def activation(**changes):
    return dataclasses.replace(TrainableQuantizerActivationConfig(*ACTIVATION), **changes)


def test_documented_weights_example_by_keyword():
    config = TrainableQuantizerWeightsConfig(
        weights_quantization_method=METHOD,
        weights_n_bits=8,
        weights_quantization_params={THRESHOLD: 2.0},
        enable_weights_quantization=True,
        weights_channels_axis=3,
        weights_per_channel_threshold=True,
        min_threshold=MIN_THRESHOLD,
    )
    assert config == TrainableQuantizerWeightsConfig(*WEIGHTS)
    assert config.weights_quantization_method is METHOD
    assert config.weights_quantization_params == {THRESHOLD: 2.0}
    assert config.weights_quantization_candidates is None


def test_documented_activation_example_by_keyword():
    config = TrainableQuantizerActivationConfig(
        activation_quantization_method=QuantizationMethod.UNIFORM,
        activation_n_bits=8,
        activation_quantization_params={THRESHOLD: 2.0},
        enable_activation_quantization=True,
        min_threshold=MIN_THRESHOLD,
    )
    assert config == TrainableQuantizerActivationConfig(*ACTIVATION)
    assert (config.activation_n_bits, config.min_threshold) == (8, MIN_THRESHOLD)


@pytest.mark.parametrize("make", [weights, activation])
@pytest.mark.parametrize("candidates", [None, CANDIDATES])
def test_round_trips_lose_nothing(make, candidates):
    config = make()
    names = {"quantization_params": {THRESHOLD: np.float32([[0.1], [1 / 3]]), "more": (1, [None, {"a": float("inf")}])}}
    names["quantization_candidates"] = candidates
    config = make(**{f"{config.target}_{name}": value for name, value in names.items()})
    for restored in (
        type(config).from_dict(config.to_dict()),
        type(config).from_json(config.to_json()),
        TrainableQuantizerConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))),
        type(config)(**vars(config)),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert restored == config
        params = getattr(restored, f"{config.target}_quantization_params")
        assert params[THRESHOLD].dtype == np.float32
        assert isinstance(params["more"], tuple)


def test_equality_sees_every_field_and_array_element():
    assert weights() == weights()
    assert weights() != activation()
    assert weights() != weights(weights_n_bits=7)
    assert weights(weights_quantization_candidates=CANDIDATES) != weights()
    one, other = (weights(weights_quantization_params={THRESHOLD: np.array([1.0, last])}) for last in (2.0, 3.0))
    assert one != other


def test_repr_reads_as_the_call():
    assert repr(activation()).startswith("TrainableQuantizerActivationConfig(activation_quantization_method=")
    assert "activation_n_bits=8" in repr(activation())


def test_configs_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        weights().weights_n_bits = 4
    params = {THRESHOLD: 1.0}
    config = weights(weights_quantization_params=params)
    params[THRESHOLD] = 5.0
    assert config.weights_quantization_params == {THRESHOLD: 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class ConfigWithMore(TrainableQuantizerWeightsConfig):
    temperature: float = 1.0


def test_a_subclass_with_a_field_round_trips():
    config = ConfigWithMore(*WEIGHTS, temperature=0.5)
    assert TrainableQuantizerWeightsConfig.from_json(config.to_json()) == config


class ConfigWithAttribute(TrainableQuantizerWeightsConfig):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = 0.5


def test_an_attribute_that_is_no_field_is_refused_rather_than_lost():
    with pytest.raises(
        QuantizerError, match="attribute must be a field, got 'temperature'; make the subclass a frozen"
    ):
        ConfigWithAttribute(*WEIGHTS).to_dict()


BAD = [
    (weights, "weights_quantization_method", "SYMMETRIC", "must be a member of QuantizationMethod"),
    (weights, "weights_n_bits", "8", "must be a positive integer, got '8'"),
    (weights, "weights_n_bits", 0, "must be a positive integer, got 0"),
    (weights, "weights_n_bits", True, "must be a positive integer, got True"),
    (weights, "weights_n_bits", 8.0, "must be a positive integer, got 8.0"),
    (weights, "weights_quantization_params", [2.0], "must be a dictionary with string keys"),
    (weights, "weights_quantization_params", {1: 2.0}, "must be a dictionary with string keys"),
    (weights, "enable_weights_quantization", 1, "must be True or False, got 1"),
    (weights, "weights_per_channel_threshold", "yes", "must be True or False"),
    (weights, "weights_channels_axis", 1.0, "must be an integer"),
    (weights, "weights_channels_axis", None, "must be an integer"),
    (weights, "min_threshold", 0.0, "must be a positive number"),
    (weights, "min_threshold", float("nan"), "must be a positive number"),
    (weights, "min_threshold", -1, "must be a positive number"),
    (weights, "weights_quantization_candidates", [8], "list of TrainableQuantizerCandidateConfig"),
    (activation, "activation_quantization_method", None, "must be a member of QuantizationMethod"),
    (activation, "activation_n_bits", None, "must be a positive integer"),
    (activation, "activation_quantization_params", None, "must be a dictionary"),
    (activation, "enable_activation_quantization", None, "must be True or False"),
    (activation, "min_threshold", "small", "must be a positive number"),
]


@pytest.mark.parametrize(
    ("make", "name", "value", "text"), BAD, ids=lambda part: getattr(part, "__name__", str(part))[:30]
)
def test_bad_fields_are_named_with_their_value(make, name, value, text):
    with pytest.raises(QuantizerError) as error:
        make(**{name: value})
    assert str(error.value).startswith(f"{type(make()).__name__}: {name} must be")
    assert text in str(error.value)
    assert "; " in str(error.value)


def test_unknown_missing_and_foreign_keys_are_refused():
    data = weights().to_dict()
    with pytest.raises(QuantizerError, match="got 'weights_n_bit'; did you mean 'weights_n_bits'"):
        TrainableQuantizerWeightsConfig.from_dict({**data, "weights_n_bit": 3})
    with pytest.raises(QuantizerError, match="weights_n_bits must be present"):
        TrainableQuantizerWeightsConfig.from_dict({k: v for k, v in data.items() if k != "weights_n_bits"})
    with pytest.raises(QuantizerError, match="type must be TrainableQuantizerActivationConfig"):
        TrainableQuantizerActivationConfig.from_dict(data)
    with pytest.raises(QuantizerError, match="type must be the name of a configuration class, got 'Config'"):
        TrainableQuantizerConfig.from_dict({"type": "Config"})
    with pytest.raises(QuantizerError, match="type must be the name"):
        TrainableQuantizerConfig.from_dict([])
    with pytest.raises(QuantizerError, match="text must be JSON"):
        TrainableQuantizerConfig.from_json("{")


def test_training_methods_are_their_strings():
    assert TrainingMethod("LSQ") is TrainingMethod.LSQ
    assert TrainingMethod.STE == "STE"


def rounding_config(rounding, method=QuantizationMethod.POWER_OF_TWO):
    return TrainableQuantizerActivationConfig(method, 8, {"threshold": 1.0}, True, activation_rounding=rounding)


@pytest.mark.parametrize("rounding", [None, "half_up", RoundingRule.HALF_AWAY])
def test_a_rule_for_ties_is_kept_by_json(rounding):
    config = rounding_config(rounding)
    assert config.activation_rounding == rounding
    assert rounding is None or isinstance(config.activation_rounding, RoundingRule)
    assert TrainableQuantizerActivationConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("rounding", "method", "message"),
    [
        ("up", QuantizationMethod.POWER_OF_TWO, "must be None, or one of half_even, half_up, half_away, got 'up'"),
        ("half_up", QuantizationMethod.SYMMETRIC, "must be None where ranges are no powers of two, got 'half_up'"),
    ],
)
def test_wrong_rules_for_ties_are_refused(rounding, method, message):
    with pytest.raises(QuantizerError, match=f"activation_rounding {message}"):
        rounding_config(rounding, method)


def learning_config(target, method=QuantizationMethod.SYMMETRIC, **rules):
    if target == "weights":
        return TrainableQuantizerWeightsConfig(method, 8, {"threshold": 1.0}, True, 0, False, **rules)
    return TrainableQuantizerActivationConfig(method, 8, {"threshold": 1.0}, True, **rules)


@pytest.mark.parametrize("target", ["weights", "activations"])
@pytest.mark.parametrize(
    "rules", [{}, {"threshold_domain": "log2"}, {"ewgs": 1}, {"threshold_domain": "log2", "ewgs": 0.2}]
)
def test_rules_of_learning_are_kept_by_json_and_by_recipes(target, rules, tmp_path):
    config = learning_config(target, **rules)
    found = (config.threshold_domain, config.ewgs)
    assert found == (ThresholdDomain(rules.get("threshold_domain", "linear")), rules.get("ewgs", 0.0))
    assert type(config).from_json(config.to_json()) == config
    recipe = Recipe(**{target: {"method": "symmetric", **rules}})
    for name in ("npu.toml", "npu.json"):
        recipe.to_file(tmp_path / name)
        read = Recipe.from_file(tmp_path / name)
        assert read == recipe
        scheme = getattr(read, target)
        made = scheme.config({"threshold": 1.0}, 0) if target == "weights" else scheme.config({"threshold": 1.0})
        assert (made.threshold_domain, made.ewgs) == found


WRONG_RULES = [
    ({"threshold_domain": "log10"}, "threshold_domain must be one of linear, log2, got 'log10'"),
    ({"threshold_domain": None}, "threshold_domain must be one of linear, log2, got None"),
    ({"ewgs": 2.0}, "ewgs must be a number of at least 0 and below 2, got 2.0"),
    ({"ewgs": -0.1}, "ewgs must be a number of at least 0 and below 2, got -0.1"),
    ({"ewgs": float("nan")}, "ewgs must be a number of at least 0 and below 2, got nan"),
    ({"ewgs": "0.2"}, "ewgs must be a number of at least 0 and below 2, got '0.2'"),
    ({"ewgs": True}, "ewgs must be a number of at least 0 and below 2, got True"),
]


@pytest.mark.parametrize("target", ["weights", "activations"])
@pytest.mark.parametrize(("rules", "message"), WRONG_RULES)
def test_wrong_rules_of_learning_are_refused(target, rules, message):
    with pytest.raises(QuantizerError, match=message):
        learning_config(target, **rules)
    with pytest.raises(QuantizerError, match=message):
        Recipe(**{target: {"method": "symmetric", **rules}})


NO_STEP = "ewgs must be 0 with look-up tables and AdaRound, got 0.2"
MEANINGLESS = [
    ({"method": "uniform", "threshold_domain": "log2"}, "threshold_domain must be linear with method uniform"),
    ({"method": "lut_power_of_two", "num_bits": 4, "ewgs": 0.2}, NO_STEP),
    ({"training_method": "AdaRound", "ewgs": 0.2}, NO_STEP),
]


@pytest.mark.parametrize(("scheme", "message"), MEANINGLESS)
def test_rules_of_learning_are_refused_where_they_have_no_meaning(scheme, message):
    with pytest.raises(QuantizerError, match=message):
        Recipe(weights=scheme)


def test_the_ends_of_a_uniform_range_have_no_logarithm():
    with pytest.raises(QuantizerError, match="threshold_domain must be linear where ranges are uniform"):
        learning_config("weights", QuantizationMethod.UNIFORM, threshold_domain="log2")


def test_a_recipe_holds_the_rule_for_ties(tmp_path):
    recipe = Recipe(activations={"rounding": "half_away"})
    recipe.to_file(tmp_path / "npu.toml")
    read = Recipe.from_file(tmp_path / "npu.toml")
    assert read == recipe and read.activations.rounding is RoundingRule.HALF_AWAY
    assert read.activations.config({"threshold": 1.0}).activation_rounding is RoundingRule.HALF_AWAY
    with pytest.raises(QuantizerError, match="rounding must be one of half_even, half_up, half_away, got 'half_evn'"):
        Recipe(activations={"rounding": "half_evn"})
