"""Figures of a report by names for loggers, and the gradient ratio."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainable_quantizers_core import QuantizationMethod
from trainable_quantizers_core.report import ModelReport, TensorReport, measure
from trainable_quantizers_core.training.telemetry import gradient_ratio, scalars


def tensor(method=QuantizationMethod.SYMMETRIC, parameters=None, axis=None):
    return TensorReport("conv", "weight", "weights", method, 4, True, parameters or {"threshold": 1.0}, axis)


def test_an_unmeasured_tensor_shows_its_parameters_alone():
    assert scalars(ModelReport("m", "f", (tensor(),))) == {"conv.weight/threshold": 1.0}


def test_a_range_shows_both_ends():
    uniform = tensor(QuantizationMethod.UNIFORM, {"min_range": -0.5, "max_range": 1.0})
    assert scalars(ModelReport("m", "f", (uniform,))) == {"conv.weight/min_range": -0.5, "conv.weight/max_range": 1.0}


def test_of_channels_the_mean_and_the_extremes_are_shown():
    report = ModelReport("m", "f", (tensor(parameters={"threshold": [1.0, 2.0, 6.0]}, axis=0),))
    assert scalars(report) == {
        "conv.weight/threshold": 3.0,
        "conv.weight/threshold_lowest": 1.0,
        "conv.weight/threshold_highest": 6.0,
    }


RANGES_USED = {
    "half": (tensor(), [0.0, -0.9375], 0.5),
    "clipped on both sides": (tensor(), [-9.0, 9.0], 1.0),
    "nothing finite": (tensor(), [np.nan, np.inf], 0.0),
    "infinite is left out": (tensor(), [-np.inf, 0.0, -0.9375, np.nan], 0.5),
    "empty": (tensor(), [], 0.0),
    "mean of channels": (tensor(parameters={"threshold": [1.0, 2.0]}, axis=1), [[0.0, 0.0], [-0.9375, -0.9375]], 0.375),
    "a channel without finite values": (
        tensor(parameters={"threshold": [1.0, 1.0]}, axis=0),
        [[0.0, -0.9375], [np.nan, np.nan]],
        0.5,
    ),
}


@pytest.mark.parametrize(("report", "x", "expected"), RANGES_USED.values(), ids=RANGES_USED)
def test_the_range_used_is_that_of_the_values_within_the_effective_range(report, x, expected):
    x = np.float32(x)
    assert measure(report, x, np.zeros_like(x)).range_used == pytest.approx(expected)


FINITE = st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.lists(FINITE, min_size=1, max_size=4), st.lists(FINITE, min_size=1, max_size=4), st.floats(0.1, 100))
def test_the_gradient_ratio_is_a_quotient_of_proportions(x, p, scale):
    x, p = np.float64(x), np.float64(p)
    found = gradient_ratio([p], [scale * p], x, x)
    assert found == pytest.approx(scale) if x.any() and p.any() else found in (0.0, inf)


def test_the_gradient_ratio_of_what_does_not_move():
    one = np.float32([1.0])
    assert gradient_ratio([one], [0 * one], one, 0 * one) == 0
    assert gradient_ratio([one], [one], one, 0 * one) == inf
    assert gradient_ratio([0 * one], [one], one, one) == inf
