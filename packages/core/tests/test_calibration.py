import json
import math
import pickle
import re
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trainable_quantizers_core import (
    MIN_THRESHOLD,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    THRESHOLD,
    ActivationsScheme,
    QuantizerError,
    TensorStatistics,
    WeightsScheme,
    activation_parameters,
    weights_parameters,
)
from trainable_quantizers_core.quantizer.specification import RangeSpecification

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0), elements=FLOATS)
METHODS = ["power_of_two", "symmetric", "uniform"]
CALIBRATIONS = ["min_max", "percentile", "mse", "lsq"]


def seen(*arrays):
    statistics = TensorStatistics()
    for array in arrays:
        statistics.update(array)
    return statistics


def squared_error(x, params, num_bits):
    """Written from the contract alone, for parameters in effect, in float64."""
    x = np.asarray(x, np.float64)
    if THRESHOLD in params:
        signed = params.get(SIGNED, True)
        step, zero = params[THRESHOLD] / 2.0 ** (num_bits - signed), 0
        lowest, highest = (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if signed else (0, 2**num_bits - 1)
    else:
        lowest, highest = 0, 2**num_bits - 1
        step = (params[RANGE_MAX] - params[RANGE_MIN]) / highest
        zero = np.rint(-params[RANGE_MIN] / step)
    return np.mean((step * (np.clip(np.rint(x / step) + zero, lowest, highest) - zero) - x) ** 2)


# Statistics


def test_statistics_know_what_they_saw():
    statistics = seen(np.float32([[-1.5, 0.0], [np.nan, 4.0]]), np.float64([]), 0.5, [np.inf, -0.0], np.int8([2]))
    assert (statistics.count, statistics.non_finite, statistics.zeros) == (6, 2, 2)
    assert (statistics.minimum, statistics.maximum, statistics.max_magnitude) == (-1.5, 4.0, 4.0)
    assert statistics.mean_magnitude == 8 / 6


@given(st.lists(ARRAYS, max_size=5), st.randoms())
def test_statistics_depend_on_the_values_alone(arrays, random):
    values = [value for array in arrays for value in array.reshape(-1)]
    whole = seen(np.float32(values))
    assert seen(*arrays) == whole
    random.shuffle(values)
    split = random.randint(0, len(values))
    merged = seen(*values[:split])
    other = seen(np.float32(values[split:]))
    merged.merge(other)
    assert merged == whole
    assert other == seen(np.float32(values[split:]))
    finite = [float(value) for value in values if np.isfinite(value)]
    assert whole.count == len(finite)
    assert whole.mean_magnitude == pytest.approx(math.fsum(map(abs, finite)) / max(len(finite), 1), rel=1e-15)


@pytest.mark.parametrize("arrays", [(), ([0.0, 3.0, np.nan],), np.random.default_rng(0).normal(size=(2, 9))])
def test_statistics_survive_json_and_pickle(arrays):
    statistics = seen(*arrays)
    restored = TensorStatistics.from_dict(json.loads(json.dumps(statistics.to_dict(), allow_nan=False)))
    assert restored == pickle.loads(pickle.dumps(statistics)) == statistics
    restored.update(5.0)
    assert restored == seen(*arrays, 5.0)


def test_statistics_that_saw_something_else_differ():
    assert seen([1.0, 2.0]) != seen([1.0, 2.5])
    assert seen([1.0]) != "other"


def test_memory_stays_constant():
    statistics = seen(np.float32([1e-6]))
    size = len(pickle.dumps(statistics))
    tracemalloc.start()
    for exponent in range(-10, 20):
        statistics.update(np.random.default_rng(0).normal(size=20_000) * 2.0**exponent)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert abs(len(pickle.dumps(statistics)) - size) < 200
    assert left < 400_000


@pytest.mark.parametrize("distribution", ["normal", "laplace", "exponential"])
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.5, 0.99, 0.9999, 1.0])
def test_quantiles_are_right_to_within_a_bin(distribution, fraction):
    x = getattr(np.random.default_rng(0), distribution)(size=100_000).astype(np.float32)
    x[:30_000] = 0
    statistics = seen(*np.split(x, 4))
    width = 2 * statistics.max_magnitude / 8192
    for values, magnitudes in ((x, False), (np.abs(x), True)):
        below, above = np.quantile(values, np.clip([fraction - 2e-5, fraction + 2e-5], 0, 1))  # two values up and down
        assert below - width <= statistics.quantile(fraction, magnitudes) <= above + width


class OnAnotherDevice:
    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda tensor to numpy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ("text", "array must be of floats, got 'str'; pass the values of a tensor, detached and on the CPU (<U4 is"),
        (np.array([1j]), "got 'ndarray'; pass the values of a tensor, detached and on the CPU (complex128 is not"),
        ([[1.0], [1.0, 2.0]], "array must be of floats, got 'list'"),
        (OnAnotherDevice(), "got 'OnAnotherDevice'; pass the values of a tensor, detached and on the CPU (can't"),
    ],
)
def test_what_is_not_numbers_is_refused(array, message):
    with pytest.raises(QuantizerError, match=re.escape(message)):
        TensorStatistics().update(array)
    with pytest.raises(QuantizerError, match="weights_parameters: array must be of floats"):
        weights_parameters(array, WeightsScheme(), 0)


def test_a_state_of_other_keys_is_refused():
    state = seen([1.0]).to_dict()
    with pytest.raises(QuantizerError, match="key must be one that to_dict writes, got 'counts'; did you mean 'count'"):
        TensorStatistics.from_dict({**state, "counts": 1})
    del state["zeros"]
    with pytest.raises(QuantizerError, match=r"TensorStatistics\.from_dict: key must be present, got 'zeros'"):
        TensorStatistics.from_dict(state)


# Parameters

DATA = np.float32([-3.0, -1.0, 0.0, 0.5, 1.0, 2.5])
MAGNITUDE = 8.0 / 6
FORMULAS = [  # data, method, bits, calibration, parameters
    (DATA, "symmetric", 8, "min_max", {THRESHOLD: 3.0, SIGNED: True}),
    (DATA, "power_of_two", 8, "min_max", {THRESHOLD: 4.0, SIGNED: True}),
    (2 * DATA / 3, "power_of_two", 8, "min_max", {THRESHOLD: 2.0, SIGNED: True}),
    (DATA, "uniform", 8, "min_max", {RANGE_MIN: -3.0, RANGE_MAX: 2.5}),
    (abs(DATA), "symmetric", 8, "min_max", {THRESHOLD: 3.0, SIGNED: False}),
    (abs(DATA) + 1, "uniform", 8, "min_max", {RANGE_MIN: 0.0, RANGE_MAX: 4.0}),
    (-abs(DATA) - 1, "uniform", 8, "min_max", {RANGE_MIN: -4.0, RANGE_MAX: 0.0}),
    (DATA, "symmetric", 4, "lsq", {THRESHOLD: 2 * MAGNITUDE / math.sqrt(7) * 8, SIGNED: True}),
    (abs(DATA), "symmetric", 4, "lsq", {THRESHOLD: 2 * MAGNITUDE / math.sqrt(15) * 16, SIGNED: False}),
    (DATA, "power_of_two", 4, "lsq", {THRESHOLD: 16.0, SIGNED: True}),
    (np.r_[DATA[:5], [2.5] * 100_000, 1000], "symmetric", 8, "percentile", {THRESHOLD: 2.5, SIGNED: True}),
    (np.r_[-900, -2, [2.5] * 100_000, 1000], "uniform", 8, "percentile", {RANGE_MIN: 0.0, RANGE_MAX: 2.5}),
    (np.r_[[-2.0] * 50_000, [2.5] * 50_000, 9], "uniform", 8, "percentile", {RANGE_MIN: -2.0, RANGE_MAX: 2.5}),
]


@pytest.mark.parametrize(("data", "method", "bits", "calibration", "wanted"), FORMULAS)
def test_formulas(data, method, bits, calibration, wanted):
    found = activation_parameters(seen(data), ActivationsScheme(method, bits, calibration=calibration))
    assert found.findings == ()
    assert found.params == pytest.approx(wanted, rel=2 / 8192 if calibration != "percentile" else 0.1)
    if wanted.pop(SIGNED, True):
        scheme = WeightsScheme(method, bits, calibration=calibration, granularity="per_tensor")
        assert weights_parameters(data, scheme).params == pytest.approx(wanted, rel=1e-6)


def test_a_percentile_that_is_zero_holds_the_largest_instead():
    data = np.float32([0.0] * 100_000 + [1.0])
    for method, wanted in (("symmetric", {THRESHOLD: 1.0, SIGNED: False}), ("uniform", {RANGE_MIN: 0, RANGE_MAX: 1})):
        assert activation_parameters(seen(data), ActivationsScheme(method, calibration="percentile")).params == wanted


SAMPLES = {
    "normal": np.random.default_rng(0).normal(size=20_000),
    "relu": np.maximum(np.random.default_rng(1).normal(size=20_000), 0),
    "outlier": np.r_[np.random.default_rng(2).normal(size=20_000), 200.0],
    "shifted": np.random.default_rng(3).normal(2, 1, size=20_000),
}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_mse_finds_the_least_error_there_is(sample, bits, method):
    x = SAMPLES[sample].astype(np.float32)
    found = activation_parameters(seen(x), ActivationsScheme(method, bits, calibration="mse")).params
    error = squared_error(x, found, bits)
    if method == "uniform":
        top, bottom = max(x.max(), 0), min(x.min(), 0)
        fractions = np.geomspace(0.01, 1, 100)
        all_params = [{RANGE_MIN: bottom * f, RANGE_MAX: top * f} for f in fractions]
    elif method == "symmetric":
        thresholds = np.geomspace(0.01, 2, 300) * np.abs(x).max()
        all_params = [{THRESHOLD: t, SIGNED: found[SIGNED]} for t in thresholds]
    else:
        assert math.frexp(found[THRESHOLD])[0] == 0.5
        all_params = [{THRESHOLD: 2.0**k, SIGNED: found[SIGNED]} for k in range(-10, 10)]
    assert error <= 1.01 * min(squared_error(x, params, bits) for params in all_params)


@pytest.mark.parametrize("bits", [2, 4])
def test_lsq_starts_scale_and_offset_of_signed_activations_where_the_squared_error_is_least(bits):
    x = np.random.default_rng(4).normal(0, 3, size=20_000)
    swish = (x / (1 + np.exp(-x))).astype(np.float32)
    lsq, mse, ends = (
        activation_parameters(seen(swish), ActivationsScheme("uniform", bits, calibration=calibration)).params
        for calibration in ("lsq", "mse", "min_max")
    )
    assert lsq == mse
    assert lsq[RANGE_MIN] <= 0 < lsq[RANGE_MAX] < ends[RANGE_MAX]
    assert ends == {RANGE_MIN: pytest.approx(swish.min()), RANGE_MAX: pytest.approx(swish.max())}
    assert squared_error(swish, lsq, bits) < squared_error(swish, ends, bits)


@pytest.mark.parametrize("bits", range(10, 17))
def test_mse_holds_where_a_step_is_as_wide_as_a_bin(bits):
    x = np.r_[np.random.default_rng(0).uniform(-1, 1, size=200_000), 1.0001]
    assert activation_parameters(seen(x), ActivationsScheme("power_of_two", bits)).params[THRESHOLD] == 1


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.floats(-1e3, 1e3, width=32)), st.sampled_from(METHODS), st.integers(2, 8)
)
def test_mse_is_never_worse_than_min_max(weight, method, bits):
    searched, plain = (
        weights_parameters(weight, WeightsScheme(method, bits, calibration=calibration), 0).params
        for calibration in ("mse", "min_max")
    )
    for channel, x in enumerate(weight):
        error, bound = (
            squared_error(x, {key: float(value[channel]) for key, value in params.items()}, bits)
            for params in (searched, plain)
        )
        assert error <= bound * 1.001 + 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_channel_is_calibrated_as_if_it_were_alone(method, calibration, axis):
    weight = np.random.default_rng(0).normal(size=(5, 4, 3)) * np.linspace(1, 5, 5).reshape(5, 1, 1)
    params = weights_parameters(weight, WeightsScheme(method, 4, calibration=calibration), axis).params
    per_tensor = WeightsScheme(method, 4, calibration=calibration, granularity="per_tensor")
    for channel, part in enumerate(np.moveaxis(weight, axis, 0)):
        alone = weights_parameters(part, per_tensor).params
        assert alone == {key: value[channel] for key, value in params.items()}


def test_blocks_of_channels_change_nothing(monkeypatch):
    weight = np.random.default_rng(0).normal(size=(50, 40))
    whole = weights_parameters(weight, WeightsScheme("uniform", 4), 1).params
    monkeypatch.setattr(sys.modules["trainable_quantizers_core.calibration.initial_parameters"], "_BLOCK", 120)
    monkeypatch.setattr(sys.modules["trainable_quantizers_core.calibration.range_search"], "_PIECE", 7)
    parts = weights_parameters(weight, WeightsScheme("uniform", 4), 1).params
    for key in whole:
        np.testing.assert_array_equal(parts[key], whole[key])


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=FLOATS),
    st.sampled_from(METHODS),
    st.sampled_from(CALIBRATIONS),
    st.integers(2, 16),
)
@pytest.mark.filterwarnings("error")
def test_whatever_the_data_the_parameters_make_a_quantizer(array, method, calibration, bits):
    for granularity in ("per_tensor", "per_channel"):
        scheme = WeightsScheme(method, bits, calibration=calibration, granularity=granularity)
        params = weights_parameters(array, scheme, 1).params
        specification = RangeSpecification.from_config("test", scheme.config(params, 1))
        values = specification.initial_values(array.shape)
        assert all(np.isfinite(value).all() for value in values.values())
    scheme = ActivationsScheme(method, bits, calibration=calibration)
    if np.isfinite(array).any():
        config = scheme.config(activation_parameters(seen(array), scheme).params)
        assert RangeSpecification.from_config("test", config).grid.num_bits == bits


FINDINGS = [  # weight with channels first, parameters per channel of symmetric min-max, findings
    ([[1.0], [2.0]], [1.0, 2.0], []),
    ([[0.0], [3.0], [0.0], [1.0], [4.0]], [3.0, 3.0, 3.0, 1.0, 4.0], ["2 of 5 channels hold only zeros (0, 2); they"]),
    ([[0.0]] * 20 + [[1.0]], [1.0] * 21, ["20 of 21 channels hold only zeros (0, 1, 2, 3, 4, 5, 6, 7, ...); they"]),
    ([[0.0, 0.0], [0.0, 0.0]], [1.0, 1.0], ["all 4 values are zero; the range up to 1 is used"]),
    ([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5], ["all 4 values are 0.5"]),
    ([[np.nan, 1.0], [2.0, -np.inf]], [1.0, 2.0], ["2 of 4 values are NaN or infinite; they count as zero"]),
    ([[np.nan], [2.0]], [2.0, 2.0], ["1 of 2 values are NaN", "1 of 2 channels hold only zeros (0); they take the"]),
    (
        [[1e-7], [-2e-7]],
        [MIN_THRESHOLD] * 2,
        ["the largest magnitude, 2e-07, is below the smallest threshold, 1.53e-05; levels above it stay unused"],
    ),
]


@pytest.mark.parametrize(("weight", "wanted", "findings"), FINDINGS)
def test_odd_weights_get_parameters_and_findings(weight, wanted, findings):
    found = weights_parameters(np.float32(weight), WeightsScheme("symmetric", calibration="min_max"), 0)
    assert found.params[THRESHOLD].tolist() == wanted
    assert found.params[THRESHOLD].dtype == np.float32
    assert len(found.findings) == len(findings)
    assert all(text.startswith(start) for text, start in zip(found.findings, findings, strict=True))


def test_a_dead_channel_of_ends_takes_the_median_of_each():
    weight = np.float32([[-1, 2], [0, 0], [-3, 3], [-2, 8]])
    params = weights_parameters(weight, WeightsScheme("uniform", calibration="min_max"), 0).params
    assert (params[RANGE_MIN].tolist(), params[RANGE_MAX].tolist()) == ([-1, -2, -3, -2], [2, 3, 3, 8])
    params = weights_parameters(0 * weight, WeightsScheme("uniform"), 0).params
    assert (params[RANGE_MIN].tolist(), params[RANGE_MAX].tolist()) == ([-1] * 4, [1] * 4)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize(
    ("data", "method", "params", "finding"),
    [
        ([0.0] * 5, "symmetric", {THRESHOLD: 1.0, SIGNED: False}, "all 5 values are zero; the range up to 1 is used"),
        ([0.0, -0.0], "uniform", {RANGE_MIN: 0.0, RANGE_MAX: 1.0}, "all 2 values are zero; the range up to 1 is used"),
        ([-1.5, -1.5], "power_of_two", None, "all 2 values are -1.5"),
        ([1.0, np.nan, np.inf], "power_of_two", None, "2 of 3 values are NaN or infinite; they were ignored"),
    ],
)
def test_odd_activations_get_parameters_and_findings(data, method, params, finding, calibration):
    found = activation_parameters(seen(data), ActivationsScheme(method, calibration=calibration))
    assert found.findings[0].startswith(finding)
    assert params is None or found.params == params


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [-1.5, 0.3, 7.0])
def test_a_constant_is_met_to_within_half_a_step(method, value):
    found = activation_parameters(seen([value] * 9), ActivationsScheme(method, 4, calibration="mse")).params
    width = found[THRESHOLD] if THRESHOLD in found else found[RANGE_MAX] - found[RANGE_MIN]
    assert squared_error([value], found, 4) <= (width / 2**4) ** 2
    assert found.get(SIGNED, value < 0) is (value < 0)


def test_statistics_without_a_value_are_refused():
    message = "activation_parameters: statistics must be of at least one finite value, got TensorStatistics(count=0, "
    with pytest.raises(QuantizerError, match=re.escape(message) + ".*; feed calibration data through the model"):
        activation_parameters(TensorStatistics(), ActivationsScheme())
    with pytest.raises(QuantizerError, match=re.escape(message) + "non_finite=2.*; look for what made it NaN"):
        activation_parameters(seen([np.nan, np.inf]), ActivationsScheme())


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((3, 4), 2, "channel_axis must be in -2..1, got 2 for a weight of shape (3, 4); name the channel axis"),
        ((3, 4), None, "channel_axis must be in -2..1, got None for a weight of shape (3, 4)"),
        ((3, 0), 0, "array must be of at least one element, got array([], shape=(3, 0), dtype=float64)"),
    ],
)
def test_a_weight_without_channels_is_refused(shape, axis, message):
    with pytest.raises(QuantizerError, match=re.escape(message)):
        weights_parameters(np.ones(shape), WeightsScheme(), axis)


def test_a_scalar_weight_is_calibrated_per_tensor():
    assert weights_parameters(2.0, WeightsScheme(calibration="min_max", granularity="per_tensor")).params == {
        THRESHOLD: 2.0
    }
