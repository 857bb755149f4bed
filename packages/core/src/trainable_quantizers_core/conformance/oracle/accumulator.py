"""Section 5 of the contract: the accumulator of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import Range, effective_range


@dataclass(frozen=True)
class Sums:
    """The results of section 5 for a layer.

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
    """Section 5, for a weight of two axes and inputs on a power-of-two grid; ``case.axis`` is the channel axis."""
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
