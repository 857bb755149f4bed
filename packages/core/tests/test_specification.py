import numpy as np
import pytest
from trainable_quantizers_core import (
    LUT_VALUES,
    MIN_THRESHOLD,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    THRESHOLD,
    QuantizationMethod,
    QuantizerError,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.specification import RangeSpecification

METHOD = QuantizationMethod


def weights(params, method=METHOD.SYMMETRIC, bits=4, axis=0, per_channel=True):
    config = TrainableQuantizerWeightsConfig(method, bits, params, True, axis, per_channel, MIN_THRESHOLD)
    return RangeSpecification.from_config("Quantizer", config)


def activation(params, method=METHOD.SYMMETRIC, bits=4):
    config = TrainableQuantizerActivationConfig(method, bits, params, True, MIN_THRESHOLD)
    return RangeSpecification.from_config("Quantizer", config)


SHAPES = [
    (2.0, 0, [2, 2, 2]),
    ([1.0, 2.0, 3.0], 0, [1, 2, 3]),
    (np.float32([1, 2, 3]).reshape(3, 1, 1, 1), 0, [1, 2, 3]),
    (np.float32([1, 2]).reshape(1, 2, 1, 1), 1, [1, 2]),
    ([1.0, 2.0], 1, [1, 2]),
    (np.float32([1, 2]), -3, [1, 2]),
    (np.float64([[[[7.0]]]]), 3, [7] * 5),
]


@pytest.mark.parametrize(("value", "axis", "wanted"), SHAPES, ids=str)
def test_per_channel_values_are_flat_or_shaped_for_broadcasting(value, axis, wanted):
    found = weights({THRESHOLD: value}, axis=axis).initial_values((3, 2, 4, 5))[THRESHOLD]
    assert found.dtype == np.float32
    assert found.tolist() == wanted


@pytest.mark.parametrize("value", [2.0, [2.0], (2.0,), np.float32(2), np.array([[2.0]]), 2])
def test_per_tensor_values_are_scalars_of_any_form(value):
    found = weights({THRESHOLD: value}, per_channel=False).initial_values((3, 2))[THRESHOLD]
    assert found.shape == ()
    assert found == 2


def test_uniform_with_a_threshold_means_the_range_of_that_threshold():
    signed = activation({THRESHOLD: 2.0}, METHOD.UNIFORM, 8).initial
    assert (signed["min_range"], signed["max_range"]) == (-2.0, 2.0 - 2.0 / 128)
    unsigned = activation({THRESHOLD: 2.0, SIGNED: False}, METHOD.UNIFORM, 8).initial
    assert (unsigned["min_range"], unsigned["max_range"]) == (0.0, 2.0 - 2.0 / 256)


def test_missing_sign_means_signed():
    assert activation({THRESHOLD: 1.0}).grid.signed
    assert not activation({THRESHOLD: 1.0, SIGNED: False}).grid.signed


@pytest.mark.parametrize("signed", [True, False])
def test_a_range_takes_no_notice_of_a_sign_beside_it(signed):
    params = {RANGE_MIN: -1.0, RANGE_MAX: 2.0}
    assert activation({**params, SIGNED: signed}, METHOD.UNIFORM, 8) == activation(params, METHOD.UNIFORM, 8)


SYMMETRIC, UNIFORM, TABLED = METHOD.SYMMETRIC, METHOD.UNIFORM, METHOD.LUT_POT_QUANTIZER
TABLE = {THRESHOLD: 1.0, LUT_VALUES: list(range(-64, 64, 8))}
BAD_PARAMETERS = [
    (SYMMETRIC, {}, "activation_quantization_params must be a dictionary with 'threshold', got {}; add THRESHOLD"),
    (SYMMETRIC, {"treshold": 1.0}, "key must be one of threshold, is_signed, got 'treshold'"),
    (SYMMETRIC, {"treshold": 1.0}, "did you mean 'threshold'?"),
    (SYMMETRIC, {RANGE_MIN: 0.0, RANGE_MAX: 1.0}, "key must be one of threshold, is_signed, got 'range_min'"),
    (SYMMETRIC, {THRESHOLD: 0.0}, "threshold must be positive, got 0.0"),
    (SYMMETRIC, {THRESHOLD: -1.0}, "threshold must be positive, got -1.0"),
    (SYMMETRIC, {THRESHOLD: float("nan")}, "threshold must be finite"),
    (SYMMETRIC, {THRESHOLD: float("inf")}, "threshold must be finite"),
    (SYMMETRIC, {THRESHOLD: 1e39}, "threshold must be finite and at most 2^126"),
    (SYMMETRIC, {THRESHOLD: "1"}, "threshold must be a number or an array of numbers, got '1'"),
    (SYMMETRIC, {THRESHOLD: True}, "threshold must be a number"),
    (SYMMETRIC, {THRESHOLD: None}, "threshold must be a number"),
    (SYMMETRIC, {THRESHOLD: []}, "threshold must be a number"),
    (SYMMETRIC, {THRESHOLD: [[1.0], [1.0, 2.0]]}, "threshold must be a number or an array of numbers"),
    (
        SYMMETRIC,
        {THRESHOLD: [1.0, 2.0]},
        "threshold must be a single number when quantizing per tensor, got [1.0, 2.0]",
    ),
    (SYMMETRIC, {THRESHOLD: 1.0, SIGNED: "no"}, "is_signed must be True or False, got 'no'"),
    (UNIFORM, {}, "add RANGE_MIN and RANGE_MAX, or THRESHOLD alone"),
    (UNIFORM, {RANGE_MIN: 0.0}, "must be a dictionary with 'range_max'"),
    (UNIFORM, {RANGE_MIN: 1.0, RANGE_MAX: 1.0}, "(range_min, range_max) must be in ascending order, got (1.0, 1.0)"),
    (UNIFORM, {RANGE_MIN: 2.0, RANGE_MAX: 1.0}, "must be in ascending order"),
    (UNIFORM, {RANGE_MIN: float("nan"), RANGE_MAX: 1.0}, "range_min must be finite"),
    (
        UNIFORM,
        {RANGE_MIN: 0.0, RANGE_MAX: 1.0, THRESHOLD: 1.0},
        "key must be one of range_min, range_max, is_signed, got 'threshold'",
    ),
    (TABLED, {THRESHOLD: 1.0}, "a dictionary with 'lut_values', got {'threshold': 1.0}; add LUT_VALUES"),
    (TABLED, {**TABLE, LUT_VALUES: TABLE[LUT_VALUES][1:]}, "lut_values must be 16 integers in -128..127, got [-56"),
    (TABLED, {**TABLE, LUT_VALUES: [128, *range(15)]}, "lut_values must be 16 integers in -128..127, got [128"),
    (TABLED, {**TABLE, LUT_VALUES: [0.5, *range(15)]}, "repeat entries to use fewer of them"),
    (TABLED, {**TABLE, SIGNED: False}, "lut_values must be 16 integers in 0..255, got [-64"),
    (SYMMETRIC, TABLE, "key must be one of threshold, is_signed, got 'lut_values'"),
]


@pytest.mark.parametrize(("method", "params", "text"), BAD_PARAMETERS, ids=str)
def test_bad_parameters(method, params, text):
    with pytest.raises(QuantizerError) as error:
        activation(params, method)
    assert str(error.value).startswith("Quantizer: ")
    assert text in str(error.value)


@pytest.mark.parametrize("bits", [1, 17, 32])
def test_bits_that_no_inferable_quantizer_deploys(bits):
    with pytest.raises(QuantizerError, match=rf"weights_n_bits must be in 2..16, got {bits}; choose"):
        weights({THRESHOLD: 1.0}, bits=bits)


def test_a_table_of_as_many_bits_as_its_entries_is_refused():
    with pytest.raises(
        QuantizerError, match=r"weights_n_bits must be in 2..7, got 8; a table holds some of the levels"
    ):
        weights(TABLE, TABLED, 8)


def test_weights_are_signed():
    with pytest.raises(QuantizerError, match="is_signed must be True for weights, got False"):
        weights({THRESHOLD: 1.0, SIGNED: False})


BAD_SHAPES = [
    ({THRESHOLD: [1.0, 2.0]}, 0, "threshold must be a scalar, or of shape (3,) or (3, 1, 1, 1), got (2,)"),
    (
        {THRESHOLD: np.ones((1, 3, 1, 1))},
        0,
        "got (1, 3, 1, 1) for a tensor of shape (3, 2, 4, 5) with channels on axis 0",
    ),
    ({THRESHOLD: [1.0] * 3}, 1, "threshold must be a scalar, or of shape (2,) or (1, 2, 1, 1), got (3,)"),
    ({THRESHOLD: 1.0}, 4, "weights_channels_axis must be in -4..3, got 4 for a tensor of shape (3, 2, 4, 5)"),
    ({THRESHOLD: 1.0}, -5, "weights_channels_axis must be in -4..3, got -5"),
]


@pytest.mark.parametrize(("params", "axis", "text"), BAD_SHAPES, ids=str)
def test_values_that_do_not_fit_the_tensor(params, axis, text):
    with pytest.raises(QuantizerError) as error:
        weights(params, axis=axis).initial_values((3, 2, 4, 5))
    assert text in str(error.value)


def test_ends_of_different_shapes_are_refused():
    with pytest.raises(QuantizerError, match=r"range_min must be of the shape of range_max \(3,\), got \(2,\)"):
        weights({RANGE_MIN: [-1.0, -1.0], RANGE_MAX: [1.0, 1.0, 1.0]}, UNIFORM)
