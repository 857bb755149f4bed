"""One function per promise of the contract; each raises an ``AssertionError`` that names what was broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.conformance.accumulator import check_bias, check_limit
from trainable_quantizers_core.conformance.adapter import FrameworkAdapter, Run
from trainable_quantizers_core.conformance.cases import SHAPE, Case
from trainable_quantizers_core.conformance.comparison import (
    close,
    everywhere,
    refused,
    same_bits,
    same_gradient_to_input,
    same_gradients,
    same_levels,
    that,
)
from trainable_quantizers_core.conformance.mixture import check_mixture
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, effective_range, tie_level
from trainable_quantizers_core.conformance.oracle.expectation import Expectation
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.oscillations import check_oscillations
from trainable_quantizers_core.conformance.probes import probe_inputs
from trainable_quantizers_core.conformance.soft_rounding import check_soft_rounding
from trainable_quantizers_core.conformance.subject import Check, Subject, learns_width, rounds_softly, updated
from trainable_quantizers_core.enums import RoundingRule, VariableGroup
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer, constructor_parameters
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer


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


def same_as_contract(run: Run, expected: Expectation, x: np.ndarray) -> None:
    """Levels, values and every gradient."""
    same_levels(run.output, expected, x)
    close(run.output, expected.output, expected, "outputs differ by more than an ulp per level", x)
    same_gradient_to_input(run.grad_x, expected, ~(expected.near_end | expected.at_end), x)
    same_gradients(run, expected)


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


def check_train_is_deploy(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """The deployed output is the trained one: bit for bit, or where not exact within an ulp per level off the ties.

    Inferables derive their step anew, and go wrong for a few parameters in a hundred: so many are tried.
    """
    subject = Subject(adapter, quantizer_class, case)
    for values in (subject.values, updated(subject.values), *_seeded(case, subject.values, 16)):
        subject.assign(values)
        x = probe_inputs(case, values, infinite=True)
        for training in (True, False):
            trained, deployed = subject.output(training, x), subject.deployed(x)
            if adapter.exact:
                same_bits(trained, deployed, "the deployed output differs", x)
            else:
                expected = expect(case, values, x, np.zeros_like(x))
                close(trained, deployed, expected, "the deployed output differs", x)


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
    """Each channel is quantized as if it were alone, whatever the rank of the tensor."""
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


def check_config_round_trip(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """Config -> dict -> JSON -> config loses nothing, the freeze flag included."""
    for frozen in (False, True):
        quantizer = quantizer_class(case.config(), freeze_quant_params=frozen)
        text = json.dumps(quantizer.get_config(), allow_nan=False)
        restored = quantizer_class.from_config(json.loads(text))
        again = json.dumps(restored.get_config(), sort_keys=True)
        that(restored.quantization_config == quantizer.quantization_config, "the configuration changed")
        that(restored.freeze_quant_params is frozen, "the freeze flag was lost")
        that(
            again == json.dumps(quantizer.get_config(), sort_keys=True),
            "get_config differs after a round trip",
        )


def check_reload_then_train(
    adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case
) -> None:
    """Reloaded variables are used by the next forward, its gradients and the conversion."""
    subject = Subject(adapter, quantizer_class, case)
    subject.assign(updated(subject.values))
    fresh = quantizer_class.from_config(subject.quantizer.get_config())
    adapter.save_and_load(subject.quantizer, subject.layer, fresh, case.tensor_shape)
    before, _ = subject.run()
    subject.quantizer = fresh
    after, expected = subject.run()
    same_bits(before.output, after.output, "the output changed by reloading", subject.x)
    same_gradients(after, expected)
    same_bits(before.grad_x, after.grad_x, "dL/dx changed by reloading", subject.x)


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


def check_disabled(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Disabled, the quantizer is the identity, bit for bit, with nothing to train."""
    field = "activation" if case.is_activation else "weights"
    quantizer = quantizer_class(case.config(**{f"enable_{field}_quantization": False}))
    adapter.build(quantizer, case.tensor_shape)
    x = probe_inputs(case, case.initial_values(), infinite=True)
    same_bits(adapter.read(quantizer(adapter.tensor(x), True)), x, "a disabled quantizer changes its input", x)
    assert not quantizer.get_trainable_variables(VariableGroup.QPARAMS), "a disabled quantizer has trainable variables"


def check_invalid_input(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Configurations that leave no grid, and tensors that are no floats, are refused with a ``QuantizerError``."""
    prefix = "activation" if case.is_activation else "weights"
    params = f"{prefix}_quantization_params"
    good = getattr(case.config(), params)
    bad_numbers = {key: float("nan") for key in good if key != "is_signed"}
    changes: dict[str, dict[str, Any]] = {
        "1 bit": {f"{prefix}_n_bits": 1},
        "17 bits": {f"{prefix}_n_bits": 17},
        "no parameters": {params: {}},
        "an unknown key": {params: {**good, "treshold": 1.0}},
        "NaN": {params: {**good, **bad_numbers}},
        "text": {params: {**good, **dict.fromkeys(bad_numbers, "1.0")}},
        "an unknown domain": {"threshold_domain": "log10"},
        "a gradient that changes its sign": {"ewgs": 2.0},
    }
    if case.uniform:
        changes["crossed ends"] = {params: {"range_min": 1.0, "range_max": -1.0}}
        changes["a logarithm of no threshold"] = {"threshold_domain": "log2"}
    else:
        changes["a negative threshold"] = {params: {**good, "threshold": -1.0}}
        changes["a zero threshold"] = {params: {**good, "threshold": 0.0}}
    if case.tabled or rounds_softly(quantizer_class):
        changes["a rounding error where there is none"] = {"ewgs": 0.3}
    for what, change in changes.items():
        refused(what, partial(_build, quantizer_class, case, change))
    if case.axis is not None:
        refused("a wrong axis", lambda: adapter.build(quantizer_class(case.config(weights_channels_axis=7)), SHAPE))
        shape = tuple(length + 1 for length in SHAPE)
        refused("a wrong number of channels", lambda: adapter.build(quantizer_class(case.config()), shape))
    subject = Subject(adapter, quantizer_class, case)
    refused("integers", lambda: subject.quantizer(adapter.tensor(np.ones((2, 2), np.int32), "int32"), True))


COMPILED_CHECKS: tuple[Check, ...] = (check_compiled, check_soft_rounding, check_mixture)
EAGER_CHECKS: tuple[Check, ...] = (
    check_output,
    check_grid,
    check_idempotent,
    check_gradient_to_input,
    check_gradient_to_parameters,
    check_frozen,
    check_update_takes_effect,
    check_recovery,
    check_range_order,
    check_train_is_deploy,
    check_dtype_and_shape,
    check_channel_axis,
    check_config_round_trip,
    check_reload_then_train,
    check_disabled,
    check_invalid_input,
    check_ties,
    check_log2_domain,
    check_soft_rounding,
    check_mixture,
    check_oscillations,
    check_bias,
    check_limit,
)


def _has_sums(quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether the sums of weights lie on a grid. One axis is enough: it is that of the channels of a dense layer."""
    powers = case.power_of_two and issubclass(quantizer_class, RangeQuantizer)
    return powers and not case.is_activation and case.axis in (None, 0) and case.num_bits <= 8


def _can_oscillate(quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether weights can be followed, which is the same for every width."""
    follows = issubclass(quantizer_class, RangeQuantizer) and "oscillations" in constructor_parameters(quantizer_class)
    return follows and not case.is_activation and not case.tabled and case.num_bits == 4


APPLIES: dict[Check, Callable[[type[BaseTrainableQuantizer], Case], bool]] = {
    check_range_order: lambda _, case: case.uniform,
    check_log2_domain: lambda _, case: case.log2,
    check_channel_axis: lambda _, case: case.axis is not None,
    check_bias: _has_sums,
    check_oscillations: _can_oscillate,
    check_limit: lambda quantizer_class, case: not case.tabled and _has_sums(quantizer_class, case),
    check_ties: lambda quantizer_class, case: (
        case.is_activation
        and case.method is QuantizationMethod.POWER_OF_TWO
        and issubclass(quantizer_class, RangeQuantizer)
    ),
}
"""Which quantizers and cases a promise is made to; to all of them where nothing is said."""


def applies(check: Check, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> bool:
    """Whether a promise is made to a quantizer and case, so that its check has something to look at.

    Soft rounding knows the shape of its weight, so that other inputs cannot probe it; what it adds to the forward of
    STE has a check of its own. So has the mixture of quantizers to which all promises are made.
    """
    own = {check_soft_rounding: rounds_softly, check_mixture: learns_width}
    special = next((each for each, is_its in own.items() if is_its(quantizer_class)), None)
    if special or check in own:
        without_inputs = (check_config_round_trip, check_disabled, check_invalid_input)
        promised = (special, *without_inputs, *((check_log2_domain,) if case.log2 else ()))
        return check in promised and bool(special)
    return check not in APPLIES or APPLIES[check](quantizer_class, case)


def _build(quantizer_class: type[BaseTrainableQuantizer], case: Case, change: dict[str, Any]) -> Any:
    return quantizer_class(case.config(**change))
