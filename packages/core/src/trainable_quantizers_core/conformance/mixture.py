"""Checks of quantizers that learn their number of bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.comparison import everywhere, same_bits, same_gradients
from trainable_quantizers_core.conformance.oracle.effective_range import EPS
from trainable_quantizers_core.conformance.oracle.mixture import expect_mixture
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule

_ATTENTION = np.array([0.1, 0.4, 0.2], np.float32)


def check_mixture(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """In training candidates are mixed, and learn, as the contract says; in the end one is left, and is deployed."""
    schedule = QuantizationSchedule(start=1, ramp=4)
    subject = Subject(adapter, quantizer_class, case, schedule=schedule)
    values = {bits: updated(each) for bits, each in case.candidates().items()}
    for bits, each in values.items():
        adapter.assign(subject.quantizer, {f"{bits}bit_{name}": value for name, value in each.items()})
    adapter.assign(subject.quantizer, {"attention": _ATTENTION, "attention_held": _ATTENTION})
    x, alone = subject.x, {bits: replace(case, identifier=TrainingMethod.LSQ, num_bits=bits) for bits in values}
    found = [expect(alone[bits], values[bits], x, x) for bits in values]
    undecided = np.any([each.near_tie | each.near_end | each.at_end for each in found], axis=0)
    g = np.where(undecided, 0, np.random.default_rng(5).normal(size=x.shape)).astype(np.float32)
    expected = {bits: expect(alone[bits], values[bits], x, g) for bits in values}
    ends = [np.abs(end) for each in expected.values() for end in (each.range.low, each.range.high)]
    ulps = 8 * EPS * np.max(ends, axis=0)
    for steps, share in ((2, 0.25),) if adapter.compiled else ((0, 0.0), (2, 0.25)):
        subject.quantizer.advance(steps)
        mixture = expect_mixture(expected, _ATTENTION, share, g)
        run = adapter.run(subject.quantizer, x, g)
        everywhere(np.abs(run.output - mixture.output) <= ulps, ~undecided, "the mixture differs", x)
        everywhere(np.abs(run.grad_x - mixture.grad_x) <= 1e-6 * np.abs(g), True, "dL/dx is wrong", x)
        same_gradients(run, mixture)
    if not adapter.compiled:
        _same_in_the_end(adapter, subject, expected[8].output, undecided, ulps)


def _same_in_the_end(
    adapter: FrameworkAdapter, subject: Subject, chosen: np.ndarray, undecided: np.ndarray, ulps: np.ndarray
) -> None:
    """The candidate with the most attention decides evaluation, and everything once the schedule ended."""
    quantizer, x, case = subject.quantizer, subject.x, subject.case
    evaluated = subject.output(training=False)
    everywhere(np.abs(evaluated - chosen) <= ulps, ~undecided, "another candidate is in use", x)
    quantizer.advance(3)
    adapter.assign(quantizer, {"attention": np.roll(_ATTENTION, 1)})
    fresh = subject.quantizer_class.from_config(quantizer.get_config())
    adapter.save_and_load(quantizer, subject.layer, fresh, case.tensor_shape)
    for found, text in (
        (subject.output(), "at the end of its schedule the output is that of another width"),
        (subject.deployed(), "the deployed output differs"),
        (adapter.read(fresh(adapter.tensor(x), True)), "reloaded, it is of another width"),
    ):
        if adapter.exact:
            same_bits(found, evaluated, text, x)
        else:
            everywhere(np.abs(found - evaluated) <= ulps, ~undecided, text, x)
