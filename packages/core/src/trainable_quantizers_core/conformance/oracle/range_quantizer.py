"""Sections 3 and 4 of the contract: output and gradients of a range quantizer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, channels_of, effective_range
from trainable_quantizers_core.conformance.oracle.expectation import Expectation, gradient_scale, through_threshold
from trainable_quantizers_core.conformance.oracle.table import expect_table


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
        return expect_table(case, values, x, g)
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
        gradient, allowed = through_threshold(
            case,
            np.asarray(values["threshold"], np.float64),
            span.high / span.highest / per_step,
            sum(gradients[name] * weight for name, weight in weights.items()),
            sum(tolerance[name] * abs(weight) for name, weight in weights.items()),
        )
        gradients, tolerance = {"threshold": gradient}, {"threshold": allowed}
    scale = gradient_scale(case, x.shape, span.highest) if scaled else 1.0
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
