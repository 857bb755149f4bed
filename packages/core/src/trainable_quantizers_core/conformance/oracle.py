"""The contract in closed form: what a range quantizer outputs, and every gradient, in float64 numpy.

Written from the formulas of the contract and from nothing else: no autograd, no code of the packages. Only
the effective range is computed in float32, one rounded operation at a time, because the contract says so:
it decides on which level zero lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.enums import RoundingRule, TrainingMethod
from trainable_quantizers_core.errors import invalid

EPS = 2.0**-23
"""Relative distance of neighbouring float32 numbers."""


@dataclass(frozen=True)
class Range:
    """An effective range: its ends and step (one per channel, or scalars), and the levels it spans.

    Args:
        low: Lower end, the value of the lowest level in the forward: a float32 number in float64.
        high: Upper end, that of the highest.
        step: Δ.
        zero_point: z.
        lowest: Lowest level.
        highest: Highest level.
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray
    zero_point: np.ndarray
    lowest: int
    highest: int

    def reshaped(self, shape: tuple[int, ...]) -> Range:
        """The same range, shaped for broadcasting."""
        low, high, step, zero = (array.reshape(shape) for array in (self.low, self.high, self.step, self.zero_point))
        return Range(low, high, step, zero, self.lowest, self.highest)


@dataclass(frozen=True)
class Expectation:
    """What the contract says of one forward and backward.

    Args:
        levels: Integer levels of the output, before the zero point is taken off.
        output: The output.
        grad_x: dL/dx.
        gradients: dL/dparameter by name of the variable.
        tolerances: Largest rounding error that float32 sums of these gradients may have.
        near_tie: Where x lies so close to a tie that float32 may choose either level.
        near_end: Where x is a denormal next to an end at zero: frameworks may take denormals for zero.
        at_end: Where x lies within a few ulps of an end, which compiled code may compute another ulp away.
        overflow: Where the level of a channel exceeds 64 bits: PyTorch's deployed kernel then wraps to the lowest.
        range: The effective range, shaped for broadcasting against x.
        tolerance_x: Largest rounding error of dL/dx, which is exact unless rounding errors scale it.
    """

    levels: np.ndarray
    output: np.ndarray
    grad_x: np.ndarray
    gradients: dict[str, np.ndarray]
    tolerances: dict[str, np.ndarray]
    near_tie: np.ndarray
    near_end: np.ndarray
    at_end: np.ndarray
    overflow: np.ndarray
    range: Range
    tolerance_x: Any = 0.0


Oracle = Callable[[Case, Mapping[str, np.ndarray], np.ndarray, np.ndarray], Expectation]


def effective_range(case: Case, values: Mapping[str, np.ndarray]) -> Range:
    """Section 2: the range that raw parameter ``values`` stand for."""
    f32 = np.float32
    bits, minimum = case.num_bits, f32(case.min_threshold)
    if case.uniform:
        low, high = (np.asarray(values[name], f32).reshape(-1) for name in ("min_range", "max_range"))
        steps = f32(2**bits - 1)
        high = np.maximum(high, low + minimum)
        low, high = np.minimum(low, f32(0)), np.maximum(high, f32(0))
        step = (high - low) / steps
        zero_point = np.minimum(np.rint(-low / step), steps)
        low, high = -zero_point * step, (steps - zero_point) * step
        lowest, highest = 0, 2**bits - 1
    else:
        bits = 8 if case.tabled else bits
        raw = np.asarray(values["threshold"], f32).reshape(-1)
        if case.log2:
            v = raw.astype(np.float64)
            raw = (2.0 ** np.ceil(v) if case.power_of_two else _sixteen_bits(2.0**v)).astype(f32)
        threshold = np.maximum(raw, minimum)
        if case.power_of_two:
            mantissa, exponent = np.frexp(threshold)  # threshold = mantissa·2^exponent, 0.5 <= mantissa < 1
            threshold = np.ldexp(f32(1), np.where(mantissa == 0.5, exponent - 1, exponent)).astype(f32)
        lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if case.signed else (0, 2**bits - 1)
        step = threshold / f32(2 ** (bits - case.signed))  # of a table the one that its entries are multiples of
        low, high, zero_point = f32(lowest) * step, f32(highest) * step, np.zeros_like(step)
    forward_step = step if case.tabled else (high - low) / f32(2**bits - 1)
    low, high = (lowest - zero_point) * forward_step, (highest - zero_point) * forward_step
    low, high, step, zero_point = (array.astype(np.float64) for array in (low, high, step, zero_point))
    return Range(low, high, step, zero_point, lowest, highest)


def _sixteen_bits(number: np.ndarray) -> np.ndarray:
    """float32, then rounded to 16 significant bits, halves up."""
    mantissa, exponent = np.frexp(number.astype(np.float32))  # 0.5 <= mantissa < 1
    return np.ldexp(np.floor(mantissa.astype(np.float64) * 2**16 + 0.5) / 2**16, exponent)


def tie_level(lower: np.ndarray, rule: RoundingRule) -> np.ndarray:
    """Section 1: the level of what lies half way between the levels ``lower`` and ``lower`` + 1."""
    if rule is RoundingRule.HALF_UP:
        return lower + 1
    return lower + (lower % 2 if rule is RoundingRule.HALF_EVEN else (lower >= 0))


def expect(case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, g: np.ndarray) -> Expectation:
    """What the oracle registered for the case's identifier says of inputs x and dL/dy = g.

    Raises:
        QuantizerError: no oracle is registered for it.
    """
    if case.identifier not in _ORACLES:
        advice = "register one with register_oracle(identifier, function)"
        known = ", ".join(map(str, _ORACLES))
        raise invalid("expect", "identifier", f"one with an oracle ({known})", case.identifier, advice)
    return _ORACLES[case.identifier](case, values, x, g)


def register_oracle(identifier: Any, oracle: Oracle) -> None:
    """Say what quantizers marked with ``identifier`` should compute.

    Args:
        identifier: The identifier of ``@mark_quantizer``.
        oracle: ``oracle(case, values, x, g)`` returns an ``Expectation``; ``expect_range`` is the usual start.

    Raises:
        QuantizerError: it is the identifier of a shipped quantizer, whose oracle is the contract.
    """
    if identifier in tuple(TrainingMethod):
        raise invalid("register_oracle", "identifier", "your own", identifier, "choose another name")
    _ORACLES[identifier] = oracle


def expect_range(
    case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, g: np.ndarray, from_rounding: bool, scaled: bool
) -> Expectation:
    """Sections 3 and 4: output and gradients of a range quantizer for the raw parameter ``values``.

    Inputs near a tie or an end take no part in the parameters' gradients: hand in g = 0 there.

    Args:
        case: The configuration.
        values: The raw parameters.
        x: Inputs.
        g: dL/dy.
        from_rounding: Whether rounding errors inside the range contribute to the parameters' gradients.
        scaled: Whether those are multiplied by r = 1/sqrt(N·highest).
    """
    if case.tabled:
        return _expect_table(case, values, x, g)
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    axes = tuple(axis for axis in range(x.ndim) if case.axis is None or axis != case.axis % x.ndim)
    span = effective_range(case, values).reshaped(channels_of(case, x))

    overflow = np.abs(x / span.step) >= 2.0**62 if case.axis is not None else np.zeros(x.shape, bool)
    v = np.clip(x / span.step, -1e9, 1e9)
    levels = np.clip(np.rint(v) + span.zero_point, span.lowest, span.highest)
    output = (levels - span.zero_point) * span.step
    blurred = 4 * EPS * (span.highest - span.lowest + 1)  # float32 errors of a level, in steps
    near_tie = np.abs(v - np.floor(v) - 0.5) <= blurred

    near_end = (x != 0) & (np.abs(x) < 2.0**-126) & ((span.low == 0) | (span.high == 0))

    largest = np.maximum(np.abs(span.low), np.abs(span.high))
    at_end = np.minimum(np.abs(x - span.low), np.abs(x - span.high)) <= 4 * EPS * largest

    below, above = x < span.low, x > span.high
    inside = ~(below | above)
    error = np.where(inside, np.rint(v) - v, 0.0) if from_rounding else np.zeros_like(x)
    steps = span.highest - span.lowest
    terms = {
        "min_range": np.where(below, g, 0.0) - g * error / steps,
        "max_range": np.where(above, g, 0.0) + g * error / steps,
    }
    slack = np.abs(g) * inside * (blurred / steps if from_rounding else 0.0)
    tolerance = {name: np.sum(np.abs(term) * 1e-6 + slack, axis=axes) for name, term in terms.items()}
    gradients = {name: np.sum(term, axis=axes) for name, term in terms.items()}
    if not case.uniform:  # min = lowest·t_eff/2^(b-s), max = highest·t_eff/2^(b-s)
        per_step = 1.0 / 2 ** (case.num_bits - case.signed)
        weights = {"min_range": span.lowest * per_step, "max_range": span.highest * per_step}
        gradient, allowed = _through_threshold(
            case,
            np.asarray(values["threshold"], np.float64),
            span.high / span.highest / per_step,
            sum(gradients[name] * weight for name, weight in weights.items()),
            sum(tolerance[name] * abs(weight) for name, weight in weights.items()),
        )
        gradients, tolerance = {"threshold": gradient}, {"threshold": allowed}
    scale = _gradient_scale(case, x.shape, span.highest) if scaled else 1.0
    grad_x = np.where(inside, g, 0.0)
    return Expectation(
        levels,
        output,
        grad_x * (1 + case.ewgs * np.sign(g) * (v - np.rint(v))),
        {name: gradient * scale for name, gradient in gradients.items()},
        {name: allowed * scale for name, allowed in tolerance.items()},
        near_tie,
        near_end,
        at_end,
        overflow,
        span,
        np.abs(grad_x) * (case.ewgs * np.where(near_tie, 1.0, blurred) + 2 * EPS) * (case.ewgs > 0),
    )


def _through_threshold(
    case: Case, raw: np.ndarray, effective: np.ndarray, gradient: Any, allowed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Section 2: dL/dt and its tolerance from those of t_eff."""
    effective = effective.reshape(raw.shape)
    if case.log2:
        raw, through = _sixteen_bits(2.0**raw), effective * np.log(2)
    else:
        through = effective / np.maximum(raw, case.min_threshold)
    gradient = gradient * through
    return np.where((raw < case.min_threshold) & (gradient > 0), 0.0, gradient), allowed * through


def _expect_table(case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, g: np.ndarray) -> Expectation:
    """Section 4, look-up tables."""
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    axes = tuple(axis for axis in range(x.ndim) if case.axis is None or axis != case.axis % x.ndim)
    span = effective_range(case, values).reshaped(channels_of(case, x))
    steps = span.highest + 1
    raw = np.asarray(values["table"], np.float64)
    order = np.argsort(raw, kind="stable")
    entries = np.rint(np.clip(raw[order] * steps, span.lowest, span.highest))

    v = np.clip(x / span.step, span.lowest, span.highest)
    distances = np.abs(v[..., None] - entries)
    nearest = np.argmin(distances, axis=-1)
    last = len(entries) - 1 - np.argmin(distances[..., ::-1], axis=-1)
    chosen = np.where((entries[nearest] == entries[last]) & (v >= entries[last]), last, nearest)
    output = entries[chosen] * span.step

    blurred = 8 * EPS * steps
    others = np.where(entries == entries[chosen][..., None], np.inf, distances)
    near_tie = np.abs(others.min(axis=-1) - distances.min(axis=-1)) <= 2 * blurred
    near_tie |= (nearest != last) & (np.abs(v - entries[chosen]) <= blurred) & (entries[nearest] == entries[last])
    largest = np.maximum(np.abs(span.low), np.abs(span.high))
    at_end = np.minimum(np.abs(x - span.low), np.abs(x - span.high)) <= 4 * EPS * largest
    near_end = (x != 0) & (np.abs(x) < 2.0**-126) & (span.low == 0)

    inside = (x >= span.low) & (x <= span.high)
    error = (entries[chosen] - np.where(inside, v, 0.0)) / steps
    threshold, allowed = _through_threshold(
        case,
        np.asarray(values["threshold"], np.float64),
        span.step * steps,
        np.sum(g * error, axis=axes),
        np.sum(np.abs(g * error) * 1e-6 + np.abs(g) * blurred / steps, axis=axes),
    )
    terms = g * span.step * steps
    table = np.zeros(len(entries))
    slack = np.zeros(len(entries))
    for position, entry in enumerate(order):
        table[entry] = np.sum(np.where(chosen == position, terms, 0.0))
        slack[entry] = np.sum(np.where(chosen == position, np.abs(terms), 0.0)) * 2e-6
    outwards = ((raw * steps > span.highest) & (table < 0)) | ((raw * steps < span.lowest) & (table > 0))
    of_bits = 2 ** (case.num_bits - case.signed) - 1
    scale, of_table = (_gradient_scale(each, x.shape, of_bits) for each in (case, replace(case, axis=None)))
    return Expectation(
        entries[chosen],
        output,
        np.where(inside, g, 0.0),
        {"threshold": threshold * scale, "table": np.where(outwards, 0.0, table) * of_table},
        {"threshold": allowed * scale, "table": slack * of_table},
        near_tie,
        near_end,
        at_end,
        np.zeros(x.shape, bool),
        span,
    )


def channels_of(case: Case, x: np.ndarray) -> tuple[int, ...]:
    """The shape in which one number for each channel is broadcast against x."""
    shape = [1] * x.ndim
    if case.axis is not None:
        shape[case.axis] = -1
    return tuple(shape)


@dataclass(frozen=True)
class SoftRounding:
    """What section 4 says of soft rounding.

    Args:
        rounding: h.
        moved: u.
        soft: The output in training.
        hard: The output in evaluation.
        grad_alpha: dL/dα for dL/dy = 1.
        near_end: Where float32 may decide otherwise whether u lies inside, or h at 0 or 1.
    """

    rounding: np.ndarray
    moved: np.ndarray
    soft: np.ndarray
    hard: np.ndarray
    grad_alpha: np.ndarray
    near_end: np.ndarray


def expect_soft_rounding(
    case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, alpha: np.ndarray
) -> SoftRounding:
    """Section 4, AdaRound, for weights x."""
    x, alpha = np.asarray(x, np.float64), np.asarray(alpha, np.float64)
    span = effective_range(case, values).reshaped(channels_of(case, x))
    lower = np.floor(x / span.step)
    at_start = np.log((x / span.step - lower + 0.1) / (1.1 - (x / span.step - lower)))
    sigmoid = 1 / (1 + np.exp(-(at_start + alpha)))
    rounding = np.clip(1.2 * sigmoid - 0.1, 0, 1)
    moved = (lower + rounding) * span.step
    inside = (moved >= span.low) & (moved <= span.high) & (rounding > 0) & (rounding < 1)
    levels = np.clip(lower + (rounding >= 0.5), span.lowest - span.zero_point, span.highest - span.zero_point)
    grad_alpha = span.step * 1.2 * sigmoid * (1 - sigmoid) * inside
    to_end = np.minimum(np.abs(moved - span.low), np.abs(moved - span.high))
    near_end = (to_end <= 1e-4 * span.step) | (np.abs(np.abs(1.2 * sigmoid - 0.6) - 0.5) <= 1e-5)
    soft, hard = np.clip(moved, span.low, span.high), levels * span.step
    return SoftRounding(rounding, moved, soft, hard, grad_alpha, near_end)


@dataclass(frozen=True)
class Mixture:
    """What section 4 says of quantization with attention.

    Args:
        output: y.
        grad_x: dL/dx.
        gradients: dL/da, and of each candidate those of its parameters, under names such as ``8bit_threshold``.
        tolerances: What float32 sums may be off.
    """

    output: np.ndarray
    grad_x: np.ndarray
    gradients: dict[str, np.ndarray]
    tolerances: dict[str, np.ndarray]


def expect_mixture(
    candidates: Mapping[int, Expectation], attention: np.ndarray, share: float, g: np.ndarray
) -> Mixture:
    """Section 4, DQA, when a share of the ramp has passed.

    Args:
        candidates: What section 4 says of each alone, by its width, in the order of the attention.
        attention: a.
        share: 0..1.
        g: dL/dy.
    """
    temperature = 0.01**share
    exponents = np.exp((attention - attention.max()).astype(np.float64) / temperature)
    shares = dict(zip(candidates, exponents / exponents.sum(), strict=True))
    output = sum(shares[bits] * each.output for bits, each in candidates.items())
    terms = [g * (each.output - output) * shares[bits] / temperature for bits, each in candidates.items()]
    gradients = {"attention": np.array([term.sum() for term in terms])}
    tolerances = {"attention": np.array([np.abs(term).sum() for term in terms]) * 1e-5}
    for bits, each in candidates.items():
        for name, gradient in each.gradients.items():
            gradients[f"{bits}bit_{name}"] = shares[bits] * gradient
            tolerances[f"{bits}bit_{name}"] = shares[bits] * (each.tolerances[name] + 1e-5 * np.abs(gradient))
    grad_x = sum(shares[bits] * each.grad_x for bits, each in candidates.items())
    return Mixture(np.asarray(output), np.asarray(grad_x), gradients, tolerances)


@dataclass(frozen=True)
class Followed:
    """What section 6 says of a weight that was followed.

    Args:
        weight: As the last step left it, level for level where it is frozen.
        flip_rate: How often each element moved back.
        mean_level: The mean of its levels, in steps of the end.
        frozen: Which elements are frozen.
    """

    weight: np.ndarray
    flip_rate: np.ndarray
    mean_level: np.ndarray
    frozen: np.ndarray


def expect_oscillations(
    case: Case, momentum: float, limits: Sequence[float], steps: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]]
) -> Followed:
    """Section 6, Oscillations, for the parameters and the weight after each step, and the limit of flip rates."""
    shape = steps[0][1].shape
    direction, rate, frozen = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    last: Any = None
    mean: Any = None
    unit: Any = None
    for limit, (values, x) in zip(limits, steps, strict=True):
        span = effective_range(case, values).reshaped(channels_of(case, x))
        ends = (span.lowest - span.zero_point, span.highest - span.zero_point)
        level = np.clip(np.rint(np.asarray(x, np.float64) / span.step), *ends)
        last, mean, unit = (level, level, span.step) if last is None else (last, mean, unit)
        regridded = np.broadcast_to(case.power_of_two & (unit != span.step), shape)
        mean = mean * np.where(regridded, unit / span.step, 1.0)
        change = np.where(regridded, 0, np.sign(level - last))
        oscillates = (change != 0) & (change == -direction)
        rate = np.where(frozen, rate, rate + momentum * (oscillates - rate))
        mean = np.where(frozen, mean, mean + momentum * (level - mean))
        now = ~frozen & (rate > limit)
        mean, frozen = np.where(now, np.rint(mean), mean), frozen | now
        direction, last, unit = np.where(change != 0, change, direction), level, span.step
        weight = np.where(frozen, np.rint(mean) * span.step, x)
    return Followed(weight, rate, mean, frozen)


@dataclass(frozen=True)
class Sums:
    """What section 5 says of a layer.

    Args:
        bias: b_eff.
        weight: The quantized weight, within the bits of the accumulator.
        grad_bias: dL/db for dL/db_eff = 1.
        grad_weight: dL/dw likewise.
    """

    bias: np.ndarray
    weight: np.ndarray
    grad_bias: np.ndarray
    grad_weight: np.ndarray


def expect_sums(
    case: Case, values: Mapping[str, np.ndarray], weight: np.ndarray, bias: np.ndarray, inputs: Range, bits: int | None
) -> Sums:
    """Section 5, of a weight of two axes and inputs on a power-of-two grid; ``case.axis`` counts the channels."""
    span, axis = effective_range(case, values), len(weight.shape) - 1 if weight.shape[-1] == len(bias) else 0
    unit = inputs.step * span.step
    largest = 2.0**31 - 128
    clipped = np.clip(np.asarray(bias, np.float64), *(np.array([-1, 1])[:, None] * _bias_limit(unit, bits)))
    levels_of_bias = np.clip(np.rint(clipped / unit), -largest, largest)
    rows = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
    v = rows / span.step.reshape(-1, 1)
    inside = (v >= span.lowest) & (v <= span.highest)
    v = np.clip(v, span.lowest, span.highest)
    levels = np.rint(v)
    if bits is not None:
        room = 2 ** (bits - 1) - 1 - np.abs(levels_of_bias)
        widest = max(-inputs.lowest, inputs.highest)
        halves = (v,) if inputs.lowest < 0 else (np.maximum(v, 0), np.minimum(v, 0))
        levels = sum(
            np.stack([_fitting(row, widest, most) for row, most in zip(half, room, strict=True)]) for half in halves
        )
    within = np.abs(bias / unit) <= largest if bits is None else np.abs(bias) <= _bias_limit(unit, bits)
    return Sums(
        levels_of_bias * unit,
        np.moveaxis(levels * span.step.reshape(-1, 1), 0, axis),
        within.astype(np.float64),
        np.moveaxis(inside.astype(np.float64), 0, axis),
    )


def _bias_limit(unit: np.ndarray, bits: int | None) -> np.ndarray:
    return np.full_like(unit, np.inf) if bits is None else 2.0 ** (bits - 2) * unit


def _fitting(v: np.ndarray, widest: int, most: float) -> np.ndarray:
    """round(α·v) with the largest multiple α <= 1 of 2^-12 whose sum of magnitudes, times X, fits."""
    tried = (np.rint(v * multiple / 4096) for multiple in range(4096, -1, -1))
    return next(levels for levels in tried if np.abs(levels).sum() * widest <= most)


def _gradient_scale(case: Case, shape: Sequence[int], highest: int) -> float:
    """R = 1/sqrt(N·highest); N counts one sample of an activation."""
    shared_by = prod(shape[1:]) if case.is_activation else prod(shape)
    if case.axis is not None:
        shared_by //= shape[case.axis]
    return float(1.0 / np.sqrt(shared_by * highest))


_ORACLES: dict[Any, Oracle] = {
    TrainingMethod.STE: partial(expect_range, from_rounding=False, scaled=False),
    TrainingMethod.LSQ: partial(expect_range, from_rounding=True, scaled=True),
    TrainingMethod.ADAROUND: partial(expect_range, from_rounding=False, scaled=False),  # its start; see soft_rounding
    TrainingMethod.DQA: partial(expect_range, from_rounding=True, scaled=True),  # one candidate; see expect_mixture
}
