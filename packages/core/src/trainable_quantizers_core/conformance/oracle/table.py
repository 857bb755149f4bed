"""Section 4 of the contract: look-up tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, channels_of, effective_range
from trainable_quantizers_core.conformance.oracle.expectation import Expectation, gradient_scale, through_threshold


def expect_table(case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, g: np.ndarray) -> Expectation:
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
    threshold, allowed = through_threshold(
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
    scale, of_table = (gradient_scale(each, x.shape, of_bits) for each in (case, replace(case, axis=None)))
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
