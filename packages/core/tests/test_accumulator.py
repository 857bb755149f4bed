"""The grid of a layer's sums: what lies on it, and what is no such grid."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.quantizer.accumulator import LARGEST_BIAS, AccumulatorGrid, bias_gradient, rounded_bias
from trainable_quantizers_core.quantizer.grid import NUMPY_OPS

BIASES = np.float32([0.0, -0.0, 0.3, -0.3, 0.5, 1.5, 2.5, -2.5, 1e-30, 3e8, 2**24 + 2, -1e9, 2**31, -(2.0**40)])


@pytest.mark.parametrize("exponent", [-40, -7, 0, 3])
def test_a_bias_becomes_the_nearest_multiple_that_32_bits_hold(exponent):
    step = Fraction(2) ** exponent
    found = rounded_bias(NUMPY_OPS, BIASES, np.full_like(BIASES, 2.0**exponent))
    for bias, value in zip(BIASES, found, strict=True):
        level = round(Fraction(float(bias)) / step)  # halves to even, as Python rounds fractions
        assert Fraction(float(value)) == step * max(-LARGEST_BIAS, min(LARGEST_BIAS, level))


def test_the_gradient_passes_where_nothing_is_clipped():
    gradient = bias_gradient(NUMPY_OPS, np.ones_like(BIASES), BIASES, np.ones_like(BIASES))
    assert gradient.tolist() == [float(abs(bias) <= LARGEST_BIAS) for bias in BIASES.tolist()]


@pytest.mark.parametrize("step", [0.3, 0.0, -0.5, float("inf"), float("nan"), None, object(), []])
def test_only_powers_of_two_are_steps(step):
    with pytest.raises(QuantizerError, match="AccumulatorGrid: step of the input must be a power of two"):
        AccumulatorGrid(step)


def test_of_several_inputs_the_coarsest_counts():
    assert AccumulatorGrid([0.25, 2, 0.5]).coarsest(max) == 2
