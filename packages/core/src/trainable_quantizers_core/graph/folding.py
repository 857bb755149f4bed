"""Folding batch norms into the layers before them: the conditions, and the arithmetic in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid

AT_CONVERSION = "at_conversion"
"""The value of ``fold_batch_norm`` for norms that normalize while the model trains."""

_SMALLEST = 2.0**-40
"""Of |s|: the square of what 1/s multiplies stays far below the largest float32."""


def check_folding(given: Any, equalizes: bool = False) -> None:
    """Check the value of ``fold_batch_norm``.

    Args:
        given: The value.
        equalizes: Whether channels are to be equalized, which moves scales between layers without norms.

    Raises:
        QuantizerError: it lists what it can be, or norms are not folded before weights are equalized.

    Examples:
        >>> check_folding("at_conversion")
        >>> check_folding("later")
        Traceback (most recent call last):
        ...
        trainable_quantizers_core.errors.QuantizerError: prepare: fold_batch_norm must be False, True or \
'at_conversion', got 'later'; write 'at_conversion' for norms that normalize while the model trains.
    """
    if not isinstance(given, bool) and given != AT_CONVERSION:
        rule, advice = f"False, True or {AT_CONVERSION!r}", f"write {AT_CONVERSION!r} for norms that normalize while"
        raise invalid("prepare", "fold_batch_norm", rule, given, f"{advice} the model trains")
    if given == AT_CONVERSION and equalizes:
        advice = "use fold_batch_norm=True, or leave equalize out"
        raise invalid("prepare", "fold_batch_norm", "False or True with equalize", given, advice)


def factor_of(variance: Any, epsilon: float, gamma: Any = None, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """The factor s = γ/sqrt(v + ε), which the weights of each output channel are multiplied with.

    Examples:
        >>> factor_of(np.array([3.0, 8.0]), 1.0, np.array([1.0, -6.0])).tolist()
        [0.5, -2.0]
    """
    deviation = sqrt(variance + epsilon)
    return (1 if gamma is None else gamma) / deviation


def folded_bias(factor: Any, mean: Any, beta: Any = None, bias: Any = None) -> Any:
    """β + (b - μ)·s, the bias of the layer that both become; β and b are 0 where there are none.

    Examples:
        >>> folded_bias(np.array([0.5]), np.array([2.0]), np.array([7.0]), np.array([4.0])).tolist()
        [8.0]
    """
    shift = (-mean if bias is None else bias - mean) * factor
    return shift if beta is None else shift + beta


def inverse_of(factor: Any, where: Callable[[Any, Any, Any], Any] = np.where) -> Any:
    """The inverse 1/s, which takes the factor back from the results of the layer; 0 where |s| is below 2^-40.

    The norm gives β for a channel that is 0 throughout, and no gradient reaches γ there.

    Examples:
        >>> inverse_of(np.array([0.5, -4.0, 0.0])).tolist()
        [2.0, -0.25, 0.0]
    """
    small = abs(factor) < _SMALLEST
    return where(small, 0.0, 1 / where(small, 1.0, factor))
