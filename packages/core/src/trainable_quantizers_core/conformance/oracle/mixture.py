"""Section 4 of the contract: quantization with attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainable_quantizers_core.conformance.oracle.expectation import Expectation


@dataclass(frozen=True)
class Mixture:
    """The results of section 4 for quantization with attention.

    Args:
        output: y.
        grad_x: dL/dx.
        gradients: dL/da, and of each candidate those of its parameters, under names such as ``8bit_threshold``.
        tolerances: The largest errors of float32 sums.
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
        candidates: The results of section 4 for each alone, by its width, in the order of the attention.
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
