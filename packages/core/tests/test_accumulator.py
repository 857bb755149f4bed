"""The grid of a layer's sums: what lies on it, and what is no such grid."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from trainable_quantizers_core import QuantizerError, WeightsScheme
from trainable_quantizers_core.quantizer.accumulator import (
    LARGEST_BIAS,
    AccumulatorGrid,
    bias_passes,
    largest_bias,
    largest_sum,
    limited,
    rounded_bias,
    worst_bits,
)
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS

BIASES = np.float32([0.0, -0.0, 0.3, -0.3, 0.5, 1.5, 2.5, -2.5, 1e-30, 3e8, 2**24 + 2, -1e9, 2**31, -(2.0**40)])


@pytest.mark.parametrize("exponent", [-40, -7, 0, 3])
def test_a_bias_becomes_the_nearest_multiple_that_32_bits_hold(exponent):
    step = Fraction(2) ** exponent
    found = rounded_bias(NUMPY_OPS, BIASES, np.full_like(BIASES, 2.0**exponent), None, LARGEST_BIAS)
    for bias, value in zip(BIASES, found, strict=True):
        level = round(Fraction(float(bias)) / step)  # halves to even, as Python rounds fractions
        assert Fraction(float(value)) == step * max(-LARGEST_BIAS, min(LARGEST_BIAS, level))


def test_the_gradient_passes_where_nothing_is_clipped():
    passes = bias_passes(NUMPY_OPS, BIASES, np.ones_like(BIASES), None, LARGEST_BIAS)
    assert passes.tolist() == [abs(bias) <= LARGEST_BIAS for bias in BIASES.tolist()]


@pytest.mark.parametrize(("finest", "most"), [(None, 64), (0.25, 16), (2.0**-6, 1), (2.0**-7, 0)])
def test_a_limited_bias_leaves_half_of_the_bits_counted_in_finest_steps(finest, most):
    step, finest = np.float32([0.5, 0.5, 0.5]), None if finest is None else np.float32(finest)
    bias = np.float32([most / 2 + 0.3, -1e9, most / 4])
    limit = largest_bias(8)
    found = rounded_bias(NUMPY_OPS, bias, step, finest, limit) / step
    assert found.tolist() == [most, -most, np.rint(most / 2)]
    assert bias_passes(NUMPY_OPS, bias, step, finest, limit).tolist() == [False, False, True]


@pytest.mark.parametrize("step", [0.3, 0.0, -0.5, float("inf"), float("nan"), None, object(), []])
def test_only_powers_of_two_are_steps(step):
    with pytest.raises(QuantizerError, match="AccumulatorGrid: step of the input must be a power of two"):
        AccumulatorGrid(step)


def test_of_several_inputs_the_coarsest_counts():
    assert AccumulatorGrid([0.25, 2, 0.5]).input_step(max) == 2


LEARNED = {"training_method": "DQA", "bits_candidates": [2, 8], "schedule": {"ramp": 9}}
INPUTS = {"unsigned": (0, 255), "signed": (-128, 127), "few bits": (0, 3)}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("bits", [12, 16, 24, 32])
def test_no_part_of_a_sum_exceeds_the_bits_whatever_the_input(bits, inputs):
    lowest, highest = INPUTS[inputs]
    rng = np.random.default_rng(bits)
    values = np.float32(rng.normal(0, rng.choice([1, 20, 60], (30, 1)), (30, 500))).clip(-128, 127)
    bias = np.float32(rng.integers(0, largest_bias(bits) + 1, 30))
    room = (largest_sum(bits) - bias).astype(np.float32)
    levels, changed = limited(NUMPY_OPS, values, room, max(-lowest, highest), lowest < 0)
    assert worst_bits(levels.astype(np.int64), bias.astype(np.int64), lowest, highest) <= bits
    for row, value in zip(levels.astype(np.int64), bias.astype(np.int64), strict=True):
        worst = np.where(row > 0, highest, lowest) * row  # the input of the largest sum
        least = np.where(row > 0, lowest, highest) * row
        assert worst[worst > 0].sum() + value < 2 ** (bits - 1)
        assert least[least < 0].sum() - value >= -(2 ** (bits - 1))
    assert np.array_equal(levels[~changed], np.rint(values)[~changed])
    assert (np.abs(levels) <= np.abs(np.rint(values))).all()


def test_the_limit_costs_no_more_than_it_must():
    values = np.float32(np.random.default_rng(0).normal(0, 30, (40, 300)))
    levels, changed = limited(NUMPY_OPS, values, np.full(40, 2.0**15 - 1, np.float32), 15, True)
    assert changed.all()
    assert (np.abs(levels).sum(1) * 15 > 0.97 * 2**15).all()


@pytest.mark.parametrize("signed", [True, False])
def test_a_channel_is_limited_by_the_largest_factor_whatever_the_others_need(signed):
    rng = np.random.default_rng(1)
    values = np.float32(rng.normal(0, [[2], [20], [40], [60]], (4, 100))).clip(-128, 127)
    room = np.float32([1e6, 1e4, 1.5e4, 5e4])
    levels, changed = limited(NUMPY_OPS, values, room, 15, signed)
    assert changed.tolist() == [False, True, True, signed]
    for row, value, space, shrunk in zip(levels, values, room, changed, strict=True):
        alone, alone_shrunk = limited(NUMPY_OPS, value[None], np.float32([space]), 15, signed)
        assert np.array_equal(alone[0], row) and alone_shrunk[0] == shrunk
        for half in (value,) if signed else (value.clip(0), value.clip(None, 0)):
            factors = np.arange(4097) / 4096
            sums = np.abs(np.rint(half * np.float32(factors[:, None]))).sum(1) * 15
            wanted = np.rint(half * np.float32(factors[sums <= space][-1]))
            assert np.array_equal(row[half != 0], wanted[half != 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AccumulatorGrid(0.5, bits=16), "inputs must be quantizers where bits are limited"),
        (lambda: WeightsScheme(accumulator_bits=7), "accumulator_bits must be an integer in 8..32, got 7"),
        (lambda: WeightsScheme(accumulator_bits=True), "accumulator_bits must be an integer in 8..32, got True"),
        (lambda: WeightsScheme(accumulator_bits=16, training_method="AdaRound"), "must be None with AdaRound, got 16"),
        (lambda: WeightsScheme(accumulator_bits=16, **LEARNED), "must be None with DQA, got 16; learn the widths"),
        (lambda: WeightsScheme(accumulator_bits=16, bias="float"), "bias must be accumulator where accumulator_bits"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(make, message):
    with pytest.raises(QuantizerError, match=message):
        make()
