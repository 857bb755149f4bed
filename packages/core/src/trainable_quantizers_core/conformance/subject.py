"""A quantizer under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter, Run
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.oracle.expectation import Expectation
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.probes import probe_inputs
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer

Check = Callable[[FrameworkAdapter, type[BaseTrainableQuantizer], Case], None]


class Subject:
    """A quantizer of a case, built on a layer, with the inputs that probe it."""

    def __init__(
        self, adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case, **options: Any
    ) -> None:
        self.adapter, self.quantizer_class, self.case = adapter, quantizer_class, case
        self.quantizer = quantizer_class(case.config(), **options)
        self.layer = adapter.build(self.quantizer, case.tensor_shape)
        self.values = case.initial_values()
        self._x: np.ndarray | None = None

    @property
    def x(self) -> np.ndarray:
        """The inputs: those that probe the current parameters, unless others were set or it is of one weight."""
        if self._x is None:
            one_weight = rounds_softly(self.quantizer_class) or learns_width(self.quantizer_class)
            self._x = _weight(self.case) if one_weight else probe_inputs(self.case, self.values)
        return self._x

    @x.setter
    def x(self, inputs: np.ndarray) -> None:
        self._x = inputs

    def assign(self, values: dict[str, np.ndarray]) -> None:
        """Give the variables other values, and probe around those."""
        self.adapter.assign(self.quantizer, values)
        self.values = values
        self._x = None

    def run(self, training: bool = True) -> tuple[Run, Expectation]:
        """Forward and backward, and what the contract says of them; undecided inputs get no upstream gradient."""
        seeded = np.random.default_rng(1).normal(size=self.x.shape).astype(np.float32)
        expected = expect(self.case, self.values, self.x, seeded)
        undecided = expected.near_tie | expected.near_end
        if not self.adapter.exact:
            undecided |= expected.at_end
        g = np.where(undecided, 0, seeded).astype(np.float32)
        return self.adapter.run(self.quantizer, self.x, g, training), expect(self.case, self.values, self.x, g)

    def output(self, training: bool = True, x: np.ndarray | None = None) -> np.ndarray:
        """The forward alone."""
        inputs = self.adapter.tensor(self.x if x is None else x)
        return self.adapter.read(self.quantizer(inputs, training))

    def deployed(self, x: np.ndarray | None = None) -> np.ndarray:
        """The output of the inferable quantizer."""
        inputs = self.adapter.tensor(self.x if x is None else x)
        return self.adapter.read(self.quantizer.convert2inferable()(inputs))


def rounds_softly(quantizer_class: type[BaseTrainableQuantizer]) -> bool:
    """Whether quantizers of a class learn the rounding of each element of one weight."""
    return issubclass(quantizer_class, RangeQuantizer) and quantizer_class.gradient.soft_rounding


def learns_width(quantizer_class: type[BaseTrainableQuantizer]) -> bool:
    """Whether quantizers of a class mix candidates of several widths."""
    return issubclass(quantizer_class, CandidatesQuantizer)


def _weight(case: Case) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, case.shape).astype(np.float32)


def updated(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters as training might change them: other numbers, no power of two among them."""
    factors = {"threshold": 1.37, "min_range": 1.21, "max_range": 0.83}
    return {name: (value * np.float32(factors.get(name, 1.1))).astype(np.float32) for name, value in values.items()}
