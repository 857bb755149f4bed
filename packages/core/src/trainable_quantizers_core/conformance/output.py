"""Checks of the output: levels, deployment, dtypes and channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import SHAPE, Case
from trainable_quantizers_core.conformance.comparison import (
    close,
    everywhere,
    same_as_contract,
    same_bits,
    same_levels,
)
from trainable_quantizers_core.conformance.oracle.effective_range import effective_range, tie_level
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.probes import HUGE, probe_inputs
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer


def check_output(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Off the ties the output is the level of the contract, within two ulps, in training and in evaluation."""
    for training in (True, False):
        subject = Subject(adapter, quantizer_class, case)
        run, expected = subject.run(training)
        same_levels(run.output, expected, subject.x)
        close(run.output, expected.output, expected, "outputs differ by more than 2 ulps", subject.x)


def check_grid(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Every output lies on a level of the grid, also at ties and beyond the ends."""
    subject = Subject(adapter, quantizer_class, case)
    span = subject.run()[1].range
    levels = subject.output() / span.step + span.zero_point
    off = np.abs(levels - np.rint(levels))
    everywhere(off <= 2e-7 * (span.highest - span.lowest + 1) + 1e-6, True, "outputs lie between levels", subject.x)
    everywhere(
        (np.rint(levels) >= span.lowest) & (np.rint(levels) <= span.highest), True, "outputs leave the grid", subject.x
    )


def check_compiled(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Compiled, outputs and gradients are those of the contract, and bit for bit the deployed ones where exact."""
    subject = Subject(adapter, quantizer_class, case)
    subject.assign(updated(subject.values))
    run, expected = subject.run()
    same_as_contract(run, expected, subject.x)
    if adapter.exact:
        same_bits(run.output, subject.deployed(), "the deployed output differs", subject.x)


def check_idempotent(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Quantizing twice is quantizing once."""
    subject = Subject(adapter, quantizer_class, case)
    once = subject.output()
    same_bits(subject.output(x=once), once, "quantizing the output changes it", once)


def check_train_is_deploy(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """The deployed output is the trained one: bit for bit, or where not exact within an ulp per level off the ties.

    Inferables derive their step again, and go wrong for a few parameters in a hundred, so the check tries many.
    """
    subject = Subject(adapter, quantizer_class, case)
    for at, values in enumerate((subject.values, updated(subject.values), *_seeded(case, subject.values, 16))):
        subject.assign(values)
        x = probe_inputs(case, values, infinite=True)
        if at % 2:  # huge, and still so when divided by a step
            x = np.clip(x, -HUGE, HUGE)
        for training in (True, False):
            trained, deployed = subject.output(training, x), subject.deployed(x)
            if adapter.exact:
                same_bits(trained, deployed, "the deployed output differs", x)
            else:
                expected = expect(case, values, x, np.zeros_like(x))
                close(trained, deployed, expected, "the deployed output differs", x)


def _seeded(case: Case, values: dict[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
    """Arbitrary parameters of the same shapes: ends on both sides of zero, thresholds over many magnitudes."""
    generator = np.random.default_rng(2)

    def draw(name: str, value: np.ndarray) -> np.ndarray:
        if name == "table":
            return np.asarray(generator.normal(0, 0.6, value.shape), np.float32)
        if name == "threshold" and case.log2:
            return np.asarray(generator.normal(0, 3, value.shape), np.float32)
        sign = -1.0 if name == "min_range" else 1.0
        return np.asarray(sign * np.exp(generator.normal(0, 2, value.shape)), np.float32)

    return [{name: draw(name, value) for name, value in values.items()} for _ in range(count)]


def check_dtype_and_shape(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """The output has the dtype and the shape of the input, the parameters stay float32."""
    for dtype in adapter.float_types:
        subject = Subject(adapter, quantizer_class, case)
        inputs = adapter.tensor(subject.x, dtype)
        output = subject.quantizer(inputs, True)
        assert adapter.dtype(output) == dtype, f"{dtype} became {adapter.dtype(output)}"
        assert tuple(output.shape) == subject.x.shape, f"shape {subject.x.shape} became {tuple(output.shape)}"
        rounded = adapter.read(adapter.tensor(subject.output(x=adapter.read(inputs)), dtype))
        everywhere(adapter.read(output) == rounded, True, f"{dtype} is not quantized in float32", subject.x)
        for name in subject.values:
            found = adapter.dtype(subject.quantizer.get_quantizer_variable(name))
            assert found == "float32", f"{name} is {found}"
    if case.axis is None:
        subject = Subject(adapter, quantizer_class, case)
        for shape in ((), (1,), (0, 3), (2, 1, 3, 1, 2)):
            x = np.full(shape, 0.3, np.float32)
            run = adapter.run(subject.quantizer, x, np.ones_like(x))
            assert run.output.shape == shape, f"shape {shape} became {run.output.shape}"
            assert run.grad_x.shape == shape, f"dL/dx of shape {shape} became {run.grad_x.shape}"


def check_channel_axis(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Each channel is quantized as if it were alone, for tensors of any rank."""
    assert case.axis is not None
    subject = Subject(adapter, quantizer_class, case)
    output, moved = np.moveaxis(subject.output(), case.axis, 0), np.moveaxis(subject.x, case.axis, 0)
    alone = replace(case, axis=None)
    for channel in range(output.shape[0]):
        single = Subject(adapter, quantizer_class, alone)
        single.assign(case.of_channel(subject.values, channel))
        near_tie = expect(alone, single.values, moved[channel], np.zeros_like(moved[channel])).near_tie
        near = np.abs(single.output(x=moved[channel]) - output[channel]) <= 3e-7 * np.abs(output[channel])
        decided = ~near_tie & (np.abs(moved[channel]) < 1e9)
        everywhere(near, decided, f"channel {channel} is not quantized by its own parameters", moved[channel])
    for rank in range(1, 6):
        shape = tuple(SHAPE[case.axis] if axis == case.axis % rank else 2 for axis in range(rank))
        if case.axis >= rank:
            continue
        quantizer = quantizer_class(case.config())
        adapter.build(quantizer, shape)
        x = np.random.default_rng(rank).normal(size=shape).astype(np.float32)
        run = adapter.run(quantizer, x, np.ones_like(x))
        assert run.output.shape == shape, f"rank {rank}: shape {shape} became {run.output.shape}"
        expected = expect(case, case.initial_values(), x, np.ones_like(x))
        same_levels(run.output, expected, x)


def check_ties(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Values half way between two levels are rounded by the rule of the configuration, and pass the gradient on."""
    span = effective_range(case, case.initial_values())
    count = min(span.highest - span.lowest, 64)
    lower = np.unique(np.linspace(span.lowest, span.highest - 1, count).astype(np.int64))
    x = ((lower + 0.5) * span.step).astype(np.float32)
    for rule in RoundingRule:
        quantizer = quantizer_class(case.config(activation_rounding=rule))
        adapter.build(quantizer, None)
        run = adapter.run(quantizer, x, np.ones_like(x))
        expected = (tie_level(lower, rule) * span.step).astype(np.float32)
        everywhere(run.output == expected, True, f"ties are not rounded {rule.value}", x)
        wanted = 1 + case.ewgs * (lower + 0.5 - tie_level(lower, rule))
        close_enough = np.abs(run.grad_x - wanted) <= case.ewgs * 2.0 ** (case.num_bits - 20)
        everywhere(close_enough, True, f"dL/dx is wrong at ties that are rounded {rule.value}", x)
