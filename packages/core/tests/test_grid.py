import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import (
    Grid,
    effective_threshold,
    range_step,
    range_zero_point,
    threshold_gradient,
    uniform_grid,
    uniform_range,
)

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
BITS = st.integers(2, 16)


@pytest.mark.parametrize(
    ("bits", "signed", "lowest", "highest"),
    [(2, True, -2, 1), (2, False, 0, 3), (8, True, -128, 127), (16, False, 0, 65535)],
)
def test_levels(bits, signed, lowest, highest):
    grid = Grid(bits, signed)
    assert (grid.lowest, grid.highest, grid.num_steps) == (lowest, highest, 2**bits - 1)
    assert grid.steps_per_threshold == 2 ** (bits - signed)


@pytest.mark.parametrize("exponent", range(-15, 60, 7))
def test_power_of_two_is_exact_next_to_powers_of_two(exponent):
    power = np.float32(2.0**exponent)
    below, above = np.nextafter(power, np.float32(0)), np.nextafter(power, np.float32(np.inf))
    found = effective_threshold(NUMPY_OPS, np.array([below, power, above]), 2.0**-16, True)
    assert found.tolist() == [power, power, 2 * power]


@given(FLOATS, st.booleans())
def test_effective_threshold_is_positive_and_finite(threshold, power_of_two):
    found = effective_threshold(NUMPY_OPS, np.float32([threshold]), 2.0**-16, power_of_two)[0]
    assert np.isfinite(found)
    assert found >= 2.0**-16
    if power_of_two:
        assert np.frexp(found)[0] == 0.5
        assert not 2.0**-16 <= threshold <= 2.0**126 or threshold <= found < 2 * threshold


def test_gradient_never_pushes_a_threshold_further_below_the_minimum():
    threshold, grid = np.float32([-1.0, -1.0, 0.5, 0.5]), Grid(2, signed=True)
    of_max = np.float32([2, -2, 2, -2])
    found = threshold_gradient(NUMPY_OPS, threshold, np.zeros_like(of_max), of_max, grid, 0.25, False)
    assert found.tolist() == [0.0, -1.0, 1.0, -1.0]


def test_gradient_of_a_threshold_is_that_of_its_ends_times_their_levels_straight_through_the_power_of_two():
    threshold, grid = np.float32([3.0]), Grid(2, signed=True)
    found = threshold_gradient(NUMPY_OPS, threshold, np.float32([5.0]), np.float32([7.0]), grid, 0.25, True)
    np.testing.assert_allclose(found, [(-2 * 5 + 1 * 7) / 2 * 4 / 3], rtol=1e-6)


@given(FLOATS, FLOATS, BITS)
def test_uniform_range_is_ordered_and_has_zero_on_a_level(low, high, bits):
    grid = Grid(bits, False)
    step, zero_point = uniform_grid(NUMPY_OPS, np.float32([low]), np.float32([high]), grid, 2.0**-16)
    found_low, found_high = uniform_range(step, zero_point, grid)
    assert np.isfinite([step, found_low, found_high]).all()
    assert 0 <= zero_point[0] <= grid.num_steps
    assert zero_point[0] == np.rint(zero_point[0])
    assert found_low <= 0 <= found_high
    assert found_low < found_high


@given(st.floats(-100, -0.015625, width=32), st.floats(0.015625, 100, width=32), BITS)
def test_operation_finds_step_and_zero_point_of_a_range_again(low, high, bits):
    grid = Grid(bits, False)
    step, zero_point = uniform_grid(NUMPY_OPS, np.float32([low]), np.float32([high]), grid, 2.0**-16)
    ends = uniform_range(step, zero_point, grid)
    again = range_step(NUMPY_OPS, *ends, grid)
    assert abs(again - step) <= np.spacing(step)
    assert range_zero_point(NUMPY_OPS, ends[0], again, grid) == zero_point


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(1.0, 3.0, (0.0, 3.0)), (-3.0, -1.0, (-3.0, 0.0)), (2.0, -2.0, (0.0, 2.0 + 2.0**-16))]
)
def test_ranges_beyond_zero_and_crossed_ends(low, high, wanted):
    grid = Grid(4, False)
    step, zero_point = uniform_grid(NUMPY_OPS, np.float32([low]), np.float32([high]), grid, 2.0**-16)
    np.testing.assert_allclose(np.concatenate(uniform_range(step, zero_point, grid)), wanted, rtol=1e-6)
