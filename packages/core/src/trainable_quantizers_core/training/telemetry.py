"""Metrics of quantizers during training, named so that loggers group them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from trainable_quantizers_core.constants import FLIP_RATE, MOVES
from trainable_quantizers_core.quantizer.oscillations import shares
from trainable_quantizers_core.report.data import ModelReport


def scalars(report: ModelReport) -> dict[str, float]:
    """The figures of a report as ``layer.attribute/figure``.

    ``threshold`` (``min_range`` and ``max_range`` when uniform) is the effective one; per channel the mean, and
    ``threshold_lowest`` and ``threshold_highest`` beside it. ``clipped``, ``range_used``, ``levels_used`` and ``sqnr``
    (in dB) are those of ``TensorReport``; a tensor that was not measured has none of them. So are ``accumulator_bits``
    and ``accumulator_bits_seen``, which weights have whose layers' sums lie on power-of-two grids.

    Examples:
        >>> from mct_quantizers import QuantizationMethod
        >>> from trainable_quantizers_core.report import TensorReport, measure
        >>> conv = TensorReport("conv", "weight", "weights", QuantizationMethod.SYMMETRIC, 2, True, {"threshold": 1.0})
        >>> conv = measure(conv, np.float32([-1.5, -0.25, 0.5]), np.float32([-1.0, -0.0, 0.5]))
        >>> for name, value in scalars(ModelReport("digits", "PyTorch", (conv,))).items():
        ...     print(name, round(value, 2))
        conv.weight/threshold 1.0
        conv.weight/clipped 0.33
        conv.weight/range_used 1.0
        conv.weight/levels_used 0.75
        conv.weight/sqnr 9.14
    """
    found = {}
    for tensor in report.tensors:
        prefix = f"{tensor.layer}.{tensor.attribute}/"
        for name, values in tensor.parameters.items():
            found[f"{prefix}{name}"] = float(values.mean())
            if tensor.per_channel:
                found[f"{prefix}{name}_lowest"] = float(values.min())
                found[f"{prefix}{name}_highest"] = float(values.max())
        for figure in ("accumulator_bits", "accumulator_bits_seen"):
            if (bits := getattr(tensor, figure)) is not None:
                found[f"{prefix}{figure}"] = float(bits)
        if tensor.measured:
            for figure in ("clipped", "range_used", "levels_used", "sqnr"):
                found[f"{prefix}{figure}"] = float(getattr(tensor, figure))
    return found


def oscillations(quantizers: Mapping[str, Any]) -> dict[str, float]:
    """``oscillating`` and ``frozen``: shares of the weights whose flip rate is above 0.005, and that are frozen.

    Args:
        quantizers: By ``layer.attribute``; those that follow no flip rates have no figures.
    """
    found = {}
    for name, quantizer in quantizers.items():
        if quantizer.oscillations is not None:
            figures = shares(quantizer.read_variable(MOVES), quantizer.read_variable(FLIP_RATE))
            found.update({f"{name}/{figure}": share for figure, share in figures.items()})
    return found


def gradient_ratio(
    parameters: Sequence[np.ndarray], their_gradients: Sequence[np.ndarray], x: np.ndarray, its_gradient: np.ndarray
) -> float:
    """The relative speed at which a quantizer's parameters would move, against that of the tensor ``x`` it quantizes.

    R = (‖∇p‖/‖p‖) / (‖∇x‖/‖x‖), with p all parameters; about 1 is what LSQ aims at (Esser et al. 2020, section 2.2,
    arXiv 1902.08153). 0 where p has no gradient, infinite where x alone has none.

    Examples:
        >>> gradient_ratio([np.float32(2.0)], [np.float32(1.0)], np.float32([3.0, 4.0]), np.float32([0.0, 2.5]))
        1.0
    """
    moves = _norm(their_gradients) * _norm([x])
    against = _norm(parameters) * _norm([its_gradient])
    return 0.0 if moves == 0 else moves / against if against else inf


def repeatable(batches: Iterable[Any]) -> Iterable[Any]:
    """Batches that can be iterated more than once: those of an iterator as a list."""
    return list(batches) if isinstance(batches, Iterator) else batches


def means(of_batches: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the batches that have it.

    Examples:
        >>> means([{"a": 1.0}, {"a": 3.0, "b": 5.0}])
        {'a': 2.0, 'b': 5.0}
    """
    found: dict[str, list[float]] = {}
    for figures in of_batches:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(array, np.float64)).sum() for array in arrays)))
