"""Comparisons for checks: each counts the numbers it compares, and raises an ``AssertionError`` if they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.adapter import Run
from trainable_quantizers_core.conformance.oracle.effective_range import EPS
from trainable_quantizers_core.conformance.oracle.expectation import Expectation
from trainable_quantizers_core.conformance.oracle.mixture import Mixture
from trainable_quantizers_core.errors import QuantizerError

compared: Counter[str] = Counter()
"""How many numbers the checks of this process have compared, for reports."""


def that(condition: bool, text: str) -> None:
    """Assert a single condition."""
    compared.update(elements=1)
    assert condition, text


def everywhere(condition: Any, where: Any, text: str, x: np.ndarray) -> None:
    """Assert a condition for each element where it counts; the error shows inputs from ``x``."""
    compared.update(elements=np.size(condition))
    broken = ~np.asarray(condition) & np.broadcast_to(where, np.shape(condition))
    if broken.any():
        first = np.broadcast_to(x, broken.shape)[broken][:3]
        raise AssertionError(f"{text}: {int(broken.sum())} of {broken.size}, the first at x = {first.tolist()}")


def close(found: np.ndarray, wanted: np.ndarray, expected: Expectation, text: str, x: np.ndarray) -> None:
    """Off the ties, equal to within an ulp of the step per level."""
    largest = np.maximum(np.abs(expected.range.low), np.abs(expected.range.high))
    decided = ~(expected.near_tie | expected.overflow)
    everywhere(np.abs(found - wanted) <= 2 * EPS * largest, decided, text, x)


def same_bits(one: np.ndarray, other: np.ndarray, text: str, x: np.ndarray) -> None:
    """Equal bit for bit, where any NaN equals any other."""
    assert one.shape == other.shape, f"{text}: shapes {one.shape} and {other.shape}"
    same = (one.view(np.int32) == other.view(np.int32)) | (np.isnan(one) & np.isnan(other))
    everywhere(same, True, text, x)


def same_levels(output: np.ndarray, expected: Expectation, x: np.ndarray) -> None:
    """Off the ties, the levels of the contract."""
    levels = np.rint(output / expected.range.step) + expected.range.zero_point
    everywhere(levels == expected.levels, ~(expected.near_tie | expected.overflow), "levels differ off the ties", x)


def same_gradient_to_input(found: np.ndarray, expected: Expectation, where: Any, x: np.ndarray) -> None:
    """dL/dx, where it counts: exactly, unless rounding errors scale it."""
    everywhere(np.abs(found - expected.grad_x) <= expected.tolerance_x, where, "dL/dx is wrong", x)


def same_gradients(run: Run, expected: Expectation | Mixture) -> None:
    """The gradient of each parameter, within what float32 sums may be off."""
    for name, wanted in expected.gradients.items():
        found = run.gradients.get(name)
        assert found is not None, f"{name} gets no gradient"
        assert found.size == wanted.size, f"dL/d{name} has shape {found.shape}, expected {wanted.shape}"
        compared.update(elements=found.size)
        error = np.abs(found.reshape(wanted.shape) - wanted)
        allowed = expected.tolerances[name] + 1e-30
        assert np.all(error <= allowed), f"dL/d{name} is {found}, expected {wanted} within {allowed}"


def same_as_contract(run: Run, expected: Expectation, x: np.ndarray) -> None:
    """Levels, values and every gradient, off the ties and ends."""
    same_levels(run.output, expected, x)
    close(run.output, expected.output, expected, "outputs differ by more than an ulp per level", x)
    same_gradient_to_input(run.grad_x, expected, ~(expected.near_end | expected.at_end), x)
    same_gradients(run, expected)


def refused(what: str, action: Callable[[], Any]) -> None:
    """Assert that an action raises a ``QuantizerError``."""
    try:
        action()
        accepted = True
    except QuantizerError:
        accepted = False
    that(not accepted, f"{what} is accepted")
