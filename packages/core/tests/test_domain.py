"""Thresholds in the log2 domain: from t to the variable v, and back."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trainable_quantizers_core.quantizer.array_ops import NUMBER_OPS, NUMPY_OPS
from trainable_quantizers_core.quantizer.domain import logarithm, threshold
from trainable_quantizers_core.quantizer.grid import effective_threshold, through_threshold

THRESHOLDS = st.floats(2.0**-100, 2.0**120, width=32)
LOGARITHMS = st.floats(-100, 120, width=32)
LEAST = 2.0**-100


@given(THRESHOLDS, st.booleans())
@example(65536.01, True)
@example(float(np.nextafter(np.float32(1), np.float32(2))), True)
def test_a_threshold_starts_where_calibration_found_it(t, power_of_two):
    t = np.float32([t])
    v = logarithm(t, power_of_two)
    used = effective_threshold(NUMPY_OPS, v, LEAST, power_of_two, log2=True)
    if power_of_two:
        assert used == effective_threshold(NUMPY_OPS, t, LEAST, True)
    assert abs(used - t) <= 2.0**-15 * t or power_of_two


@given(LOGARITHMS, st.booleans())
@example(1e-9, True)
@example(-0.99999994, True)
@example(1e-9, False)
def test_what_was_read_and_is_written_again_reads_the_same(v, power_of_two):
    v = np.float32([v])
    t = threshold(v, power_of_two)
    again = logarithm(t, power_of_two)
    assert threshold(again, power_of_two) == t
    for variable in (v, again):
        used = effective_threshold(NUMPY_OPS, variable, LEAST, power_of_two, log2=True)
        assert used == effective_threshold(NUMPY_OPS, t, LEAST, power_of_two)


@pytest.mark.parametrize("exponent", range(-16, 17, 4))
def test_a_power_of_two_is_its_exponent(exponent):
    power = np.float32(2.0**exponent)
    for power_of_two in (True, False):
        assert logarithm(power, power_of_two) == exponent
        assert threshold(np.float32(exponent), power_of_two) == power


@pytest.mark.parametrize("v", [np.nan, np.inf, -np.inf])
def test_a_variable_that_diverged_reads_so(v):
    assert not np.isfinite(threshold(np.float32([v]), True)).any()


@given(st.floats(width=32))
def test_effective_thresholds_are_finite_and_those_of_numbers(v):
    for power_of_two in (True, False):
        (found,) = effective_threshold(NUMPY_OPS, np.float32([v]), 2.0**-16, power_of_two, log2=True)
        assert 2.0**-16 <= found <= 2.0**126
        assert effective_threshold(NUMBER_OPS, np.float32(v), 2.0**-16, power_of_two, log2=True) == found


def test_the_slope_is_that_of_the_exponential_and_nothing_pushes_below_the_minimum():
    v, gradient = np.float32([1.5, 1.5, -3.0, -3.0]), np.float32([2.0, -2.0, 2.0, -2.0])
    found = through_threshold(NUMPY_OPS, v, gradient, 0.25, power_of_two=False, log2=True)
    np.testing.assert_allclose(found, np.log(2) * np.array([2 * 2**1.5, -2 * 2**1.5, 0, -2 * 0.25]), rtol=2e-5)
    found = through_threshold(NUMPY_OPS, v, gradient, 0.25, power_of_two=True, log2=True)
    np.testing.assert_allclose(found, np.log(2) * np.array([2 * 4, -2 * 4, 0, -2 * 0.25]), rtol=1e-6)
