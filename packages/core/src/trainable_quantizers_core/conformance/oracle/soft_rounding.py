"""Section 4 of the contract: soft rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import channels_of, effective_range


@dataclass(frozen=True)
class SoftRounding:
    """The results of section 4 for soft rounding.

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
