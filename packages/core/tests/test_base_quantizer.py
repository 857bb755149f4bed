"""Third parties write quantizers against ``BaseTrainableQuantizer``: what they may write, and what they are told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from trainable_quantizers_core import (
    MIN_THRESHOLD,
    BaseTrainableQuantizer,
    QuantizationMethod,
    QuantizationTarget,
    QuantizerError,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    VariableGroup,
    mark_quantizer,
)

if TYPE_CHECKING:
    from trainable_quantizers_core import TrainableQuantizerWeightsConfig as OnlyForTypeCheckers  # noqa: F401

WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
SYMMETRIC, UNIFORM = QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM


def weights_config(method=SYMMETRIC, cls=TrainableQuantizerWeightsConfig):
    return cls(method, 4, {"threshold": np.float32([1, 2])}, True, 0, True, MIN_THRESHOLD)


def activation_config(method=SYMMETRIC):
    return TrainableQuantizerActivationConfig(method, 4, {"threshold": 1.0}, True, MIN_THRESHOLD)


class Life(BaseTrainableQuantizer):
    """The rest of the life cycle, so that the classes below show constructors alone."""

    def initialize_quantization(self, tensor_shape, name, layer):
        self.add_quantizer_variable("scale", layer, VariableGroup.QPARAMS)

    def __call__(self, inputs, training):
        return inputs

    def get_trainable_variables(self, group):
        return [entry["var"] for entry in self.quantizer_parameters.values() if entry["group"] is group]


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="mine")
class Plain(Life):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="mine with options")
class WithOptions(Life):
    def __init__(
        self, config: TrainableQuantizerWeightsConfig, alpha: float = 0.5, *, method=TrainingMethod.LSQ, **more
    ):
        super().__init__(config, freeze_quant_params=more.get("frozen", False))
        self.alpha, self.method, self.more = alpha, method, more


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="guarded import")
class Guarded(Life):
    def __init__(self, quantization_config: core.TrainableQuantizerWeightsConfig):  # noqa: F821
        super().__init__(quantization_config)


class OwnConfig(TrainableQuantizerWeightsConfig):
    """A subclass of a configuration."""


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="own config")
class WithOwnConfig(Life):
    def __init__(self, quantization_config: OwnConfig):
        super().__init__(quantization_config)


@pytest.mark.parametrize("cls", [Plain, WithOptions, Guarded])
def test_documented_classes_are_accepted(cls):
    quantizer = cls(weights_config())
    assert quantizer.quantization_config == weights_config()
    quantizer.initialize_quantization((2,), "w", "the variable")
    assert quantizer.get_quantizer_variable("scale") == "the variable"
    assert quantizer.quantizer_parameters == {"scale": {"var": "the variable", "group": VariableGroup.QPARAMS}}
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == ["the variable"]
    assert quantizer.get_trainable_variables(VariableGroup.WEIGHTS) == []


def test_a_config_subclass_is_accepted():
    assert isinstance(WithOwnConfig(weights_config(cls=OwnConfig)).quantization_config, OwnConfig)


def test_constructor_options_survive_the_round_trip():
    quantizer = WithOptions(weights_config(), 0.25, method=TrainingMethod.STE, frozen=True, table=np.arange(3))
    restored = WithOptions.from_config(json.loads(json.dumps(quantizer.get_config())))
    assert restored.quantization_config == quantizer.quantization_config
    assert (restored.alpha, restored.method, restored.freeze_quant_params) == (0.25, TrainingMethod.STE, True)
    assert restored.more["table"].tolist() == [0, 1, 2]


def test_from_config_names_unknown_and_missing_keys():
    config = Plain(weights_config()).get_config()
    with pytest.raises(
        QuantizerError, match="Plain: key must be a constructor argument, got 'quantisation_config'; did"
    ):
        Plain.from_config({**config, "quantisation_config": 1})
    with pytest.raises(QuantizerError, match="Plain: quantization_config must be present"):
        Plain.from_config({})


class Unmarked(Life):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="a")
class NoAnnotation(Life):
    def __init__(self, quantization_config):
        super().__init__(quantization_config)


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="b")
class WrongAnnotation(Life):
    def __init__(self, quantization_config: dict):
        super().__init__(quantization_config)


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="c")
class NoDefault(Life):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, alpha: float):
        super().__init__(quantization_config)


BAD = [
    (lambda: Unmarked(weights_config()), "class must be marked with a target and a list of methods"),
    (lambda: NoAnnotation(weights_config()), "first parameter must be a quantizer configuration"),
    (lambda: WrongAnnotation(weights_config()), "first parameter must be a quantizer configuration"),
    (lambda: NoDefault(weights_config(), 1.0), "parameter must be given a default value, got 'alpha'; "),
    (lambda: Plain(activation_config()), "quantization_config must be a TrainableQuantizerWeightsConfig"),
    (lambda: Plain({"threshold": 1.0}), "quantization_config must be a TrainableQuantizerWeightsConfig"),
    (lambda: Plain(weights_config(UNIFORM)), "quantization method must be one of SYMMETRIC, got 'UNIFORM'"),
    (lambda: WithOptions(weights_config(), frozen=1), "freeze_quant_params must be True or False, got 1"),
    (lambda: Plain(weights_config()).add_quantizer_variable("a", 1, "QPARAMS"), "group must be a VariableGroup"),
    (lambda: Plain(weights_config()).get_quantizer_variable("scale"), "initialize_quantization creates the variables"),
]


@pytest.mark.parametrize(("action", "text"), BAD, ids=lambda part: part[:40] if isinstance(part, str) else "")
def test_mistakes_are_explained(action, text):
    with pytest.raises(QuantizerError) as error:
        action()
    assert text in str(error.value)


def test_a_misspelt_variable_is_answered_with_the_nearest():
    quantizer = Plain(weights_config())
    quantizer.initialize_quantization((2,), "w", "x")
    with pytest.raises(QuantizerError, match="got 'scal'; did you mean 'scale'"):
        quantizer.get_quantizer_variable("scal")


def test_conversion_that_nobody_wrote_says_so():
    with pytest.raises(NotImplementedError, match="Plain does not define convert2inferable"):
        Plain(weights_config()).convert2inferable()


def test_an_unfinished_class_cannot_be_built():
    @mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="unfinished")
    class Unfinished(BaseTrainableQuantizer):
        def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
            super().__init__(quantization_config)

    with pytest.raises(TypeError, match="abstract"):
        Unfinished(weights_config())


def test_a_quantizer_says_what_it_quantizes():
    quantizer = Plain(weights_config())
    assert quantizer.weights_quantization() and not quantizer.activation_quantization()
