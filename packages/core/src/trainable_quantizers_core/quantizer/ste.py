"""STE, the straight-through estimator: the parameters learn only from values outside their range."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod as Method
from mct_quantizers import QuantizationTarget, mark_quantizer

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.gradient_rule import STE
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.STE,
)
class STESymmetricWeights(RangeQuantizer):
    """Straight-through estimator over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dt = t_eff/t·Σ g·(lowest where x is below the range, highest where it is above)/2^(b-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain

    b is the number of bits, g = dL/dy. Weights are signed: s = 1, lowest = -2^(b-1), highest = 2^(b-1) - 1.
    t_eff = max(t, min_threshold), rounded up to a power of two where the method is POWER_OF_TWO. The threshold is one
    number, or one for each channel.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold keeps its initial value.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: How flip rates are measured and oscillating weights frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903; of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = STE


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.STE,
)
class STEUniformWeights(RangeQuantizer):
    """Straight-through estimator over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dmin = Σ g where x < min'; dL/dmax = Σ g where x > max'

    b is the number of bits, g = dL/dy; min' and max' are the ends, moved so that 0 is a level. They are one number
    each, or one for each channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: How flip rates are measured and oscillating weights frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = STE


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.STE,
)
class STESymmetricActivation(RangeQuantizer):
    """Straight-through estimator over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dt = t_eff/t·Σ g·(lowest where x is below the range, highest where it is above)/2^(b-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain

    b is the number of bits, g = dL/dy; s = 0 where the configuration says unsigned, else 1. lowest = -s·2^(b-1),
    highest = 2^(b-s) - 1. t_eff = max(t, min_threshold), rounded up to a power of two where the method is POWER_OF_TWO.
    The threshold is one number.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold keeps its initial value.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903; of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = STE


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.STE,
)
class STEUniformActivation(RangeQuantizer):
    """Straight-through estimator over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dmin = Σ g where x < min'; dL/dmax = Σ g where x > max'

    b is the number of bits, g = dL/dy; min' and max' are the ends, moved so that 0 is a level. They are one number
    each.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = STE
