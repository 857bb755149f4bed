"""The registry of oracles: one for each kind of quantizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.expectation import Expectation
from trainable_quantizers_core.conformance.oracle.range_quantizer import expect_range
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.errors import invalid

Oracle = Callable[[Case, Mapping[str, np.ndarray], np.ndarray, np.ndarray], Expectation]


def expect(case: Case, values: Mapping[str, np.ndarray], x: np.ndarray, g: np.ndarray) -> Expectation:
    """The result of the oracle registered for the case's identifier, for inputs x and dL/dy = g.

    Args:
        case: The configuration.
        values: The raw parameters, by the names of their variables.
        x: Inputs, of any shape; of a case with an axis one that has as many channels there as there are parameters.
        g: dL/dy, of the shape of x.

    Raises:
        QuantizerError: no oracle is registered for it.

    Examples:
        >>> from mct_quantizers import QuantizationMethod, QuantizationTarget
        >>> case = Case(TrainingMethod.LSQ, QuantizationTarget.Activation, QuantizationMethod.POWER_OF_TWO, 2)
        >>> found = expect(case, {"threshold": np.float32(2)}, np.array([0.4, 9.0]), np.ones(2))
        >>> found.output.tolist(), found.grad_x.tolist()
        ([0.0, 1.0], [1.0, 0.0])
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


_ORACLES: dict[Any, Oracle] = {
    TrainingMethod.STE: partial(expect_range, from_rounding=False, scaled=False),
    TrainingMethod.LSQ: partial(expect_range, from_rounding=True, scaled=True),
    TrainingMethod.ADAROUND: partial(expect_range, from_rounding=False, scaled=False),  # its start; see soft_rounding
    TrainingMethod.DQA: partial(expect_range, from_rounding=True, scaled=True),  # one candidate; see expect_mixture
}
