"""Checks of a layer's accumulator: the bias on its grid, and the limit of its bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.comparison import everywhere, same_bits
from trainable_quantizers_core.conformance.oracle.accumulator import Sums, expect_sums
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, effective_range
from trainable_quantizers_core.conformance.subject import updated
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.accumulator import MIN_ACCUMULATOR_BITS, AccumulatorGrid
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class

_CHANNELS, _INPUTS = 4, 15


class _Layer:
    """A dense layer with the quantizer of a case, and its sums on a grid."""

    def __init__(
        self,
        adapter: FrameworkAdapter,
        quantizer_class: type[BaseTrainableQuantizer],
        case: Case,
        signed: bool,
        bits: int | None,
    ) -> None:
        generator, last = np.random.default_rng(6), adapter.dense_axis == 1
        self.adapter, self.axis = adapter, adapter.dense_axis
        shape = (_INPUTS, _CHANNELS) if last else (_CHANNELS, _INPUTS)
        case = replace(case, axis=None if case.axis is None else self.axis, shape=shape)
        given = Case(TrainingMethod.STE, QuantizationTarget.Activation, QuantizationMethod.POWER_OF_TWO, 4, signed)
        inputs: Any = get_trainable_quantizer_class(given.target, given.identifier, given.method, adapter.base_class)
        inputs = inputs(given.config())
        adapter.build(inputs, None)
        values, span = updated(case.initial_values()), effective_range(given, given.initial_values())
        weight = np.ldexp(generator.normal(0, 1, shape), -1).astype(np.float32)
        weight *= np.abs(effective_range(case, values).low).reshape([-1 if at == case.axis else 1 for at in (0, 1)])
        rows = np.moveaxis(weight, self.axis, 0)
        rows[0] = -np.abs(rows[0])  # the halves are limited apart
        bias = np.array([0.3, -1.7, 1e9, 0.0], np.float32)
        quantizer = quantizer_class(case.config())
        self._layer = adapter.dense(quantizer, weight, bias, AccumulatorGrid(inputs, bits, self.axis))
        adapter.assign(quantizer, values)
        self.expected: Sums = expect_sums(case, values, weight, bias, span, bits)

    def columns(self, weight: np.ndarray) -> np.ndarray:
        """A weight with the channels of the result last."""
        return weight if self.axis == 1 else weight.T

    def check(self, x: np.ndarray, wanted: np.ndarray, text: str, training: bool = True) -> None:
        """The outputs are those of the contract, in training or in evaluation, and the same bits once deployed."""
        g = np.ones((len(x), _CHANNELS), np.float32)
        run = self.adapter.run_dense(self._layer, x, g, training)
        bias, weight = run.gradients["bias"], run.gradients["weight"]
        assert bias is not None and weight is not None, "bias or weight gets no gradient"
        everywhere(np.abs(run.output - wanted) <= 4 * EPS * np.abs(wanted), True, text, wanted)
        everywhere(bias == len(x) * self.expected.grad_bias, True, "dL/dbias is wrong", bias)
        grad_weight = x.sum(0)[:, None] * self.columns(self.expected.grad_weight)
        everywhere(self.columns(weight) == grad_weight, True, "dL/dweight is wrong", weight)
        same_bits(self.adapter.deployed_dense(self._layer, x), run.output, f"deployed: {text}", run.output)


def check_bias(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """The bias of a layer lies on the grid of its sums, follows its weights, and learns straight through."""
    for training in (True, False):
        layer = _Layer(adapter, quantizer_class, case, signed=True, bits=None)
        zeros = np.zeros((1, _INPUTS), np.float32)
        layer.check(zeros, layer.expected.bias[None], "the bias is not on its grid", training)


def check_limit(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """No sum exceeds the bits of the accumulator: weights are the levels of the contract, the bias leaves them room."""
    for signed in (True, False):
        for bits in (max(5 + case.num_bits, MIN_ACCUMULATOR_BITS), 22):  # too few for most channels, and enough
            layer = _Layer(adapter, quantizer_class, case, signed, bits)
            wanted = layer.columns(layer.expected.weight) + layer.expected.bias
            layer.check(np.eye(_INPUTS, dtype=np.float32), wanted, f"weights are not those of {bits} bits")
