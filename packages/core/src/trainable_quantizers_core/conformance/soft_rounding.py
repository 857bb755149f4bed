"""Checks of soft rounding."""

from __future__ import annotations

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter, Run
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.comparison import everywhere, same_bits, same_gradients
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, channels_of, effective_range
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.oracle.soft_rounding import expect_soft_rounding
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule


def check_soft_rounding(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """It starts at the float weight, learns by the gradients of the contract, and is deployed as it rounds then."""
    schedule = QuantizationSchedule(ramp=9)
    subject = Subject(adapter, quantizer_class, case, schedule=schedule)
    subject.assign(updated(subject.values))
    x = subject.x
    span = effective_range(case, subject.values).reshaped(channels_of(case, x))
    ulps = 4 * EPS * np.maximum(np.abs(span.low), np.abs(span.high))
    start = np.abs(adapter.run(subject.quantizer, x, x).output - np.clip(x, span.low, span.high))
    everywhere(start <= 1e-6 * span.step + ulps, True, "it does not start at the weight", x)

    alpha = np.random.default_rng(4).normal(0, 2, case.shape).astype(np.float32)
    adapter.assign(subject.quantizer, {"alpha": alpha})
    expected = expect_soft_rounding(case, subject.values, x, alpha)
    g = np.where(expected.near_end, 0, np.random.default_rng(5).normal(size=x.shape)).astype(np.float32)
    run = adapter.run(subject.quantizer, x, g)
    of_range = expect(case, subject.values, expected.moved, g)
    everywhere(np.abs(run.output - expected.soft) <= 1e-5 * span.step + ulps, True, "soft rounding differs", x)
    everywhere(run.grad_x == of_range.grad_x, True, "dL/dx is wrong", x)
    same_gradients(run, of_range)
    allowed = 1e-4 * np.abs(g) * span.step
    _same_alpha(run, g * expected.grad_alpha, allowed, x)

    frozen = Subject(adapter, quantizer_class, case, schedule=schedule, freeze_quant_params=True)
    frozen.assign(subject.values)
    adapter.assign(frozen.quantizer, {"alpha": alpha})
    of_frozen = adapter.run(frozen.quantizer, x, g)
    assert not any(np.any(of_frozen.gradients[name]) for name in frozen.values), "frozen variables get a gradient"
    _same_alpha(of_frozen, g * expected.grad_alpha, allowed, x)

    hard = adapter.run(subject.quantizer, x, g, training=False).output
    decided = np.abs(expected.rounding - 0.5) > 1e-4
    everywhere(np.abs(hard - expected.hard) <= ulps, decided, "it is not rounded as it learned", x)
    subject.quantizer.advance(9)
    fresh = quantizer_class.from_config(subject.quantizer.get_config())
    adapter.save_and_load(subject.quantizer, subject.layer, fresh, case.tensor_shape)
    reloaded = adapter.run(fresh, x, g).output
    deployed = subject.deployed(adapter.read(subject.quantizer.deployed_weight(adapter.tensor(x))))
    for found, text in (
        (reloaded, "at the end of its schedule, reloaded, it rounds otherwise"),
        (deployed, "the deployed weight differs"),
    ):
        if adapter.exact:
            same_bits(found, hard, text, x)
        else:
            everywhere(np.abs(found - hard) <= ulps, decided, text, x)


def _same_alpha(run: Run, wanted: np.ndarray, allowed: np.ndarray, x: np.ndarray) -> None:
    gradient = run.gradients["alpha"]
    assert gradient is not None, "alpha gets no gradient"
    everywhere(np.abs(gradient - wanted) <= allowed, True, "dL/dalpha is wrong", x)
