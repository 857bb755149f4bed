"""The gradient rules that distinguish STE, LSQ and AdaRound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GradientRule:
    """How the parameters of a range learn: the columns of contract section 4.

    Args:
        from_rounding: Whether rounding errors inside the range contribute, or only saturated values.
        scaled: Whether the gradient is multiplied by r = 1/sqrt(N·highest).
        soft_rounding: Whether each weight has a variable that learns to which of its two levels it is rounded.

    Examples:
        >>> from trainable_quantizers_core.quantizer.lsq import LSQSymmetricWeights
        >>> LSQSymmetricWeights.gradient
        GradientRule(from_rounding=True, scaled=True, soft_rounding=False)
    """

    from_rounding: bool
    scaled: bool
    soft_rounding: bool = False


STE = GradientRule(from_rounding=False, scaled=False)
LSQ = GradientRule(from_rounding=True, scaled=True)
ADAROUND = GradientRule(from_rounding=False, scaled=False, soft_rounding=True)
