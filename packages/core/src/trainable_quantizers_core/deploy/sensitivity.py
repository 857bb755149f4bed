"""The effect of each quantizer alone on the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.report.sensitivity import QuantizerSensitivity, Sensitivity


def measured_sensitivity(
    placed: Sequence[PlacedQuantizer],
    wrappers: Iterable[Any],
    outputs: Callable[[], Iterable[np.ndarray]],
    keep: Callable[[PlacedQuantizer], bool] = lambda each: True,
) -> Sensitivity:
    """Run a model once in float, once fully quantized, and once with each quantizer alone.

    Args:
        placed: Its quantizers.
        wrappers: Wrappers that round biases to the grids of accumulators; without quantizers there are none.
        outputs: Gives all outputs on all data.
        keep: Selects the quantizers to measure.
    """
    complete = list(outputs())
    rows = []
    with quantizers_set_aside([each.quantizer for each in placed], wrappers):
        expected = list(outputs())
        for each in filter(keep, placed):
            each.quantizer.enabled = True
            try:
                error = _relative(outputs(), expected)
            finally:
                each.quantizer.enabled = False
            bits = each.quantizer.specification.grid.num_bits
            rows.append(QuantizerSensitivity(each.layer, each.attribute, bits, error))
    rows.sort(key=lambda row: -row.error)
    return Sensitivity(tuple(rows), _relative(complete, expected))


def _relative(given: Iterable[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    error = power = 0.0
    for one, other in zip(given, expected, strict=True):
        finite = np.isfinite(one) & np.isfinite(other)
        error += float(np.sum((one[finite] - other[finite]) ** 2))
        power += float(np.sum(other[finite] ** 2))
    return error / power if power else 0.0
