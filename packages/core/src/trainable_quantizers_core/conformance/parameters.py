"""Checks of parameters: their gradients, and the values they may take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.comparison import (
    everywhere,
    same_bits,
    same_gradient_to_input,
    same_gradients,
    same_levels,
)
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, effective_range
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.enums import VariableGroup
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer


def check_gradient_to_input(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """dL/dx is g in the closed range, decided on x, and 0 outside; scaled by the rounding error where so configured."""
    subject = Subject(adapter, quantizer_class, case)
    for sign in (1, -1) if case.ewgs else (1,):
        g = np.full_like(subject.x, sign)
        expected = expect(case, subject.values, subject.x, g)
        grad_x = adapter.run(subject.quantizer, subject.x, g).grad_x
        same_gradient_to_input(grad_x, expected, ~expected.near_end, subject.x)


def check_gradient_to_parameters(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """dL/dparameter is the sum of the contract, also after the parameters have moved."""
    subject = Subject(adapter, quantizer_class, case)
    for values in (subject.values, updated(subject.values)):
        subject.assign(values)
        same_gradients(*subject.run())


def check_frozen(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """``freeze_quant_params=True`` leaves nothing to train and changes no output."""
    subject = Subject(adapter, quantizer_class, case, freeze_quant_params=True)
    run, _ = subject.run()
    trained = [name for name, gradient in run.gradients.items() if gradient is not None and np.any(gradient)]
    assert not trained, f"frozen variables get a gradient: {trained}"
    listed = subject.quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    assert not listed, f"frozen variables are listed as trainable: {len(listed)}"
    free = Subject(adapter, quantizer_class, case)
    assert len(free.quantizer.get_trainable_variables(VariableGroup.QPARAMS)) == len(case.initial_values()), (
        "unfrozen variables are not listed as trainable"
    )
    same_bits(run.output, free.run()[0].output, "freezing changes the output", subject.x)
    same_bits(run.grad_x, free.run()[0].grad_x, "freezing changes dL/dx", subject.x)


def check_update_takes_effect(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """After any update of the parameters the forward follows them, as powers of two where so configured."""
    subject = Subject(adapter, quantizer_class, case)
    subject.run()
    for factor in (0.3, 1.37, 5.0):
        subject.assign(
            {name: (value * np.float32(factor)).astype(np.float32) for name, value in subject.values.items()}
        )
        run, expected = subject.run()
        same_levels(run.output, expected, subject.x)
        if case.power_of_two:
            mantissa, _ = np.frexp(expected.range.step)
            assert np.all(mantissa == 0.5), "the oracle's step is no power of two"
            everywhere(
                np.rint(run.output / expected.range.step) == run.output / expected.range.step,
                True,
                "not POT",
                subject.x,
            )


def check_recovery(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """From zero, negative, tiny, huge or non-finite parameters the output stays finite, and a threshold can rise."""
    for bad in (0.0, -1.0, 1e-30, 3e38, np.inf, -np.inf, np.nan):
        subject = Subject(adapter, quantizer_class, case)
        values = {name: np.full_like(value, bad) for name, value in subject.values.items()}
        adapter.assign(subject.quantizer, values)
        x = np.linspace(-2, 2, subject.x.size, dtype=np.float32).reshape(subject.x.shape)
        everywhere(np.isfinite(subject.output(x=x)), True, f"outputs are not finite for parameters {bad}", x)
    if case.uniform:
        return
    subject = Subject(adapter, quantizer_class, case)
    below = np.full_like(subject.values["threshold"], -40.0 if case.log2 else -0.5)
    subject.assign({**subject.values, "threshold": below})
    for sign, moves in ((-1.0, True), (1.0, False)):
        run = adapter.run(subject.quantizer, np.abs(subject.x) + 1, np.full_like(subject.x, sign))
        gradient = run.gradients["threshold"]
        assert gradient is not None, "the threshold gets no gradient"
        correct = (gradient < 0) if moves else (gradient == 0)
        assert np.all(correct), f"below min_threshold a gradient of sign {sign} arrives as {gradient}"


def check_range_order(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Ends that crossed, met or left zero still give an ordered range with zero on a level; both ends learn."""
    for low, high in ((1.0, -1.0), (0.5, 0.5), (2.0, 3.0), (-3.0, -2.0), (0.0, 0.0)):
        subject = Subject(adapter, quantizer_class, case)
        ends = {"min_range": low, "max_range": high}
        subject.assign({name: np.full_like(value, ends[name]) for name, value in subject.values.items()})
        run, expected = subject.run()
        same_levels(run.output, expected, subject.x)
        same_gradients(run, expected)
        zero = subject.output(x=np.zeros_like(subject.x))
        everywhere(zero == 0, True, f"zero is not on a level of the range {low}, {high}", zero)


def check_log2_domain(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Variables alone are logarithms: t is written and read; of powers of two t_eff is that of what was written."""
    given = case.parameters()
    shape = given["threshold"].shape
    beyond = np.nextafter(2.0 ** np.arange(-9, 17, 5, dtype=np.float32), np.float32(np.inf))
    for threshold in (given["threshold"], *(np.full(shape, number, np.float32) for number in beyond)):
        quantizer: Any = quantizer_class(case.config())
        adapter.build(quantizer, case.tensor_shape)
        quantizer.write_variable("threshold", threshold)
        found = quantizer.read_variable("threshold")
        everywhere(np.abs(found - threshold) <= 2.0**-15 * threshold, True, "another threshold is read", threshold)
        quantizer.write_variable("threshold", found)
        same_bits(quantizer.read_variable("threshold"), found, "what was read and written again changed", threshold)
        used = adapter.read(quantizer.step()).reshape(-1)
        values = {**given, "threshold": threshold if case.power_of_two else found}
        wanted = effective_range(replace(case, log2=False), values).step
        everywhere(np.abs(used - wanted) <= EPS * wanted, True, "the step is not that of the threshold", threshold)
