"""AdaRound: each weight learns whether it is rounded up or down."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod as Method
from mct_quantizers import QuantizationTarget, mark_quantizer

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.gradient_rule import ADAROUND
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.ADAROUND,
)
class AdaRoundSymmetricWeights(RangeQuantizer):
    """Soft rounding over a symmetric or power-of-two range: each weight learns whether it is rounded down or up.

    u = x + Δ·(h(f, α) - h(f, 0)), with f = x/Δ - floor(x/Δ)
    h(f, α) = clip(1.2·σ(log((f + 0.1)/(1.1 - f)) + α) - 0.1, 0, 1), with h(f, 0) = f
    y = clip(u, lowest·Δ, highest·Δ) in training, before the schedule ends
    y = Δ·clip(round(u/Δ), lowest, highest) from its end on, and in evaluation at any step
    Δ = t_eff/2^(b-s)

    dL/dx = g where u lies in the closed range, else 0
    dL/dα = the same, times Δ·dh/dα
    dL/dt = t_eff/t·Σ g·(lowest where u is below the range, highest where it is above)/2^(b-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain

    α starts at 0, one for each weight: y = x in training where x lies in the range, and the nearest level otherwise.
    ``start`` and ``ramp`` of the schedule say when ``rounding_regularizer`` begins to pull h to 0 or 1, and for how
    many steps of the optimizer. σ is the logistic function.

    b is the number of bits, g = dL/dy. Weights are signed: s = 1, lowest = -2^(b-1), highest = 2^(b-1) - 1.
    t_eff = max(t, min_threshold), rounded up to a power of two where the method is POWER_OF_TWO. The threshold is one
    number, or one for each channel.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold keeps its initial value; α still learns.
        schedule: When rounding becomes hard; None makes it hard from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Nagel et al. 2020, arXiv 2004.10568; α is the distance of its V from the V that reproduces the weight.
    Of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = ADAROUND


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.ADAROUND,
)
class AdaRoundUniformWeights(RangeQuantizer):
    """Soft rounding over a range with two ends: each weight learns whether it is rounded down or up.

    u = x + Δ·(h(f, α) - h(f, 0)), with f = x/Δ - floor(x/Δ)
    h(f, α) = clip(1.2·σ(log((f + 0.1)/(1.1 - f)) + α) - 0.1, 0, 1), with h(f, 0) = f
    y = clip(u, min', max') in training, before the schedule ends
    y = Δ·(clip(round(u/Δ) + z, 0, 2^b - 1) - z) from its end on, and in evaluation at any step
    Δ = (max' - min')/(2^b - 1), z = -min'/Δ

    dL/dx = g where u lies in the closed range, else 0
    dL/dα = the same, times Δ·dh/dα
    dL/dmin = Σ g where u < min'; dL/dmax = Σ g where u > max'

    α starts at 0, one for each weight: y = x in training where x lies in the range, and the nearest level otherwise.
    ``start`` and ``ramp`` of the schedule say when ``rounding_regularizer`` begins to pull h to 0 or 1, and for how
    many steps of the optimizer. σ is the logistic function.

    b is the number of bits, g = dL/dy; min' and max' are the ends, moved so that 0 is a level. They are one number
    each, or one for each channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends keep their initial values; α still learns.
        schedule: When rounding becomes hard; None makes it hard from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Nagel et al. 2020, arXiv 2004.10568; α is the distance of its V from the V that reproduces the weight.
    """

    gradient = ADAROUND
