from enum import Enum

import pytest
from trainable_quantizers_core import (
    BaseTrainableQuantizer,
    QuantizationMethod,
    QuantizationTarget,
    QuantizerError,
    TrainingMethod,
    get_trainable_quantizer_class,
    mark_quantizer,
)

WEIGHTS, SYMMETRIC = QuantizationTarget.Weights, QuantizationMethod.SYMMETRIC


class Base(BaseTrainableQuantizer):
    def initialize_quantization(self, tensor_shape, name, layer):
        pass

    def __call__(self, inputs, training):
        return inputs

    def get_trainable_variables(self, group):
        return []


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier=TrainingMethod.LSQ)
class Shipped(Base):
    pass


class Derived(Shipped):
    pass


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier=TrainingMethod.LSQ)
class MarkedAlike(Shipped):
    pass


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="mine")
class Mine(Shipped):
    pass


def find(identifier, method=SYMMETRIC, target=WEIGHTS):
    return get_trainable_quantizer_class(target, identifier, method, Base)


def test_subclasses_leave_the_look_up_of_the_shipped_class_alone():
    assert find(TrainingMethod.LSQ) is Shipped
    assert find("LSQ") is Shipped


def test_an_enumeration_of_the_same_name_and_members_finds_the_same_class():
    theirs = Enum("TrainingMethod", {"LSQ": ("LSQ",), "STE": ("STE",)})
    assert find(theirs.LSQ) is Shipped
    with pytest.raises(QuantizerError, match="0 classes match"):
        find(theirs.STE)
    with pytest.raises(QuantizerError, match="0 classes match"):
        find(Enum("Method", {"LSQ": ("LSQ",)}).LSQ)


def test_an_identifier_of_ones_own_needs_no_enumeration():
    assert find("mine") is Mine


@pytest.mark.parametrize(
    "arguments",
    [
        ("none",),
        (TrainingMethod.STE,),
        ("mine", QuantizationMethod.UNIFORM),
        ("mine", SYMMETRIC, QuantizationTarget.Activation),
    ],
)
def test_no_match_lists_what_exists(arguments):
    with pytest.raises(QuantizerError) as error:
        find(*arguments)
    assert "0 classes match; the subclasses of Base are" in str(error.value)
    assert "Mine (Weights, mine, SYMMETRIC)" in str(error.value)
    assert "Shipped (Weights, LSQ, SYMMETRIC)" in str(error.value)


def test_two_unrelated_matches_are_refused():
    @mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="twice")
    class One(Base):
        pass

    @mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="twice")
    class Two(Base):
        pass

    with pytest.raises(QuantizerError, match="2 classes match"):
        find("twice")


def test_a_class_that_is_not_finished_is_not_counted():
    @mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="unfinished")
    class Unfinished(BaseTrainableQuantizer):
        pass

    with pytest.raises(QuantizerError, match="0 classes match"):
        get_trainable_quantizer_class(WEIGHTS, "unfinished", SYMMETRIC, BaseTrainableQuantizer)
