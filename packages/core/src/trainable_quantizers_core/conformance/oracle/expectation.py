"""The expected output and gradients of one forward and backward pass, and factors shared by the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.effective_range import Range, sixteen_bits


@dataclass(frozen=True)
class Expectation:
    """The results of the contract for one forward and backward.

    Args:
        levels: Integer levels of the output, before the zero point is taken off.
        output: The output.
        grad_x: dL/dx.
        gradients: dL/dparameter by name of the variable.
        tolerances: Largest rounding error that float32 sums of these gradients may have.
        near_tie: Where x lies so close to a tie that float32 may round to either level.
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


def through_threshold(
    case: Case, raw: np.ndarray, effective: np.ndarray, gradient: Any, allowed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Section 2: dL/dt and its tolerance from those of t_eff."""
    effective = effective.reshape(raw.shape)
    if case.log2:
        raw, through = sixteen_bits(2.0**raw), effective * np.log(2)
    else:
        through = effective / np.maximum(raw, case.min_threshold)
    gradient = gradient * through
    return np.where((raw < case.min_threshold) & (gradient > 0), 0.0, gradient), allowed * through


def gradient_scale(case: Case, shape: Sequence[int], highest: int) -> float:
    """The factor r = 1/sqrt(N·highest); N counts one sample of an activation."""
    shared_by = prod(shape[1:]) if case.is_activation else prod(shape)
    if case.axis is not None:
        shared_by //= shape[case.axis]
    return float(1.0 / np.sqrt(shared_by * highest))
