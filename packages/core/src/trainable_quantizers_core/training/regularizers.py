"""Regularization terms for weights, one for each, which a framework adds up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainable_quantizers_core.errors import invalid


def rounding_terms(weights: Iterable[tuple[Any, Any]], model: Any) -> list[Any]:
    """Σ (1 - |2h - 1|^β) of each weight that learns its rounding by a schedule.

    Args:
        weights: Those of layers, each with its quantizer.
        model: Name of the model, for messages.

    Raises:
        QuantizerError: there is none.
    """
    soft = [
        quantizer.rounding_regularizer(weight)
        for weight, quantizer in weights
        if quantizer.gradient.soft_rounding and quantizer.schedule is not None
    ]
    if not soft:
        advice = "give weights training_method = 'AdaRound' and a schedule with a ramp"
        raise invalid("rounding_regularizer", "model", "one that learns to round", model, advice)
    return soft


def damping_terms(weights: Iterable[tuple[Any, Any]], model: Any) -> list[Any]:
    """Σ (y - clip(x, min', max'))² of each weight that does not learn its rounding.

    Args:
        weights: Those of layers, each with its quantizer.
        model: Name of the model, for messages.

    Raises:
        QuantizerError: there is none.
    """
    pulls = [
        quantizer.oscillation_damping(weight) for weight, quantizer in weights if not quantizer.gradient.soft_rounding
    ]
    if not pulls:
        advice = "prepare it with [weights]; weights that learn their rounding do not oscillate"
        raise invalid("oscillation_damping", "model", "one with quantized weights of layers", model, advice)
    return pulls
