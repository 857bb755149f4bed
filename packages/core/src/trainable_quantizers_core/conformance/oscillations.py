"""Checks of flip rates and of frozen weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.conformance.comparison import everywhere, same_bits
from trainable_quantizers_core.conformance.oracle.effective_range import EPS, channels_of, effective_range
from trainable_quantizers_core.conformance.oracle.oscillations import Followed, expect_oscillations
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.constants import FLIP_RATE, MEAN_LEVEL, MOVES
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.oscillations import Oscillations, level_and_direction

_STEPS, _RESUMED = 9, 6
_RULE = Oscillations(0.25, freeze_above=0.31, anneal_from=0.6, start=2, ramp=5)


def check_oscillations(adapter: FrameworkAdapter, quantizer_class: type[BaseTrainableQuantizer], case: Case) -> None:
    """Flip rates, mean levels and frozen weights are the contract's, also reloaded, and are deployed."""
    subject = Subject(adapter, quantizer_class, case, oscillations=_RULE)
    generator, lowest = np.random.default_rng(7), -(2 ** (case.num_bits - 1))
    levels = generator.integers(lowest, -lowest, case.shape)
    limits = [np.inf, np.inf, *np.linspace(0.6, 0.31, 6), *[0.31] * (_STEPS - 8)]
    seen: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    for step in range(_STEPS):
        values = updated(case.initial_values()) if step in (3, 4, 7) else case.initial_values()
        span = effective_range(case, values).reshaped(channels_of(case, levels))
        x = ((levels + generator.choice([-0.3, 0.3, 0.8], case.shape)) * span.step).astype(np.float32)
        seen.append((values, x))
        subject.assign(values)
        weight = adapter.weight(x)
        subject.quantizer.follow(weight)  # type: ignore[attr-defined]
        subject.quantizer.advance()
        if step in (_RESUMED, _STEPS - 1):
            wanted = expect_oscillations(case, _RULE.momentum, limits[: step + 1], seen)
            _same(subject, wanted, weight)
            fresh = quantizer_class.from_config(subject.quantizer.get_config())
            adapter.save_and_load(subject.quantizer, subject.layer, fresh, case.tensor_shape)
            subject.quantizer = fresh
    assert 0 < wanted.frozen.mean() < 1, "the check freezes nothing, or all"
    quantized = adapter.read(subject.quantizer(weight, True))
    if adapter.exact:
        deployed = adapter.read(subject.quantizer.convert2inferable()(weight))
        same_bits(quantized, deployed, "the deployed weight differs", x)


def _same(subject: Subject, wanted: Followed, weight: Any) -> None:
    x, read = wanted.weight, subject.adapter.read
    found = {
        name: read(subject.quantizer.get_quantizer_variable(name)).reshape(x.shape)
        for name in (MOVES, MEAN_LEVEL, FLIP_RATE)
    }
    frozen = level_and_direction(NUMPY_OPS, found[MOVES].astype(np.float32))[1] == 2
    everywhere(np.abs(found[FLIP_RATE] - wanted.flip_rate) <= 1e-5, True, "a flip rate is wrong", x)
    everywhere(np.abs(found[MEAN_LEVEL] - wanted.mean_level) <= 1e-5, True, "a mean level is wrong", x)
    everywhere(frozen == wanted.frozen, True, "a weight is frozen, or not, against its flip rate", x)
    everywhere(np.abs(read(weight) - x) <= 2 * EPS * np.abs(x), True, "a weight is not at its level", x)
