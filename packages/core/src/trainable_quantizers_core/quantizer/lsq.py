"""LSQ, learned step sizes: the parameters learn from rounding errors as well as from clipping."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod as Method
from mct_quantizers import QuantizationTarget, mark_quantizer

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.gradient_rule import LSQ
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.LSQ,
)
class LSQSymmetricWeights(RangeQuantizer):
    """Learned step size over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dt = t_eff/t·r·Σ g·(round(x/Δ) - x/Δ inside, lowest below, highest above)/2^(b-s)
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

    Source: Esser et al. 2020, arXiv 1902.08153; r = 1/sqrt(N·highest), N = elements that share a parameter.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903; of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = LSQ


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.LSQ,
)
class LSQUniformWeights(RangeQuantizer):
    """Learned step size over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dmin = r·Σ (g where x < min'; -g·e/(2^b - 1) inside), with e = round(v) - v and v = (x - min')/Δ
    dL/dmax = r·Σ (g where x > max'; +g·e/(2^b - 1) inside)

    b is the number of bits, g = dL/dy; min' and max' are the ends, moved so that 0 is a level. They are one number
    each, or one for each channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: How flip rates are measured and oscillating weights frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Esser et al. 2020, arXiv 1902.08153; r = 1/sqrt(N·highest), N = elements that share a parameter.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = LSQ


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.LUT_SYM_QUANTIZER, Method.LUT_POT_QUANTIZER],
    identifier=TrainingMethod.LSQ,
)
class LSQTableWeights(RangeQuantizer):
    """Quantization to the entries of a learned look-up table, scaled by a learned threshold.

    y = c[k]/128·t_eff, where k is the entry nearest to v = clip(x/t_eff·128, -128, 127)
    c = round(clip(sorted(u)·128, -128, 127))
    dL/dx = g where -t_eff <= x <= 127/128·t_eff, else 0
    dL/dt = t_eff/t·r·Σ g·(c[k] - v inside, c[k] outside)/128
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain
    dL/du[k] = r·Σ g·t_eff over the x that take entry k

    The table has 2^b entries at b bits, 2 <= b <= 7, and serves the whole tensor; the threshold is one number, or one
    for each channel. ``LUT_VALUES`` of the configuration are the integers c; the variable ``table`` holds u = c/128.
    g = dL/dy; t_eff = max(t, min_threshold), rounded up to a power of two where the method is LUT_POT_QUANTIZER.

    Args:
        quantization_config: Bits, method, initial threshold and table.
        freeze_quant_params: Whether threshold and table keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no table, or does not fit the tensor.

    Source: Han et al. 2016, arXiv 1510.00149; r = 1/sqrt(N·(2^(b-1) - 1)), N = elements that share a parameter
    (Esser et al. 2020, arXiv 1902.08153).
    Of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = LSQ


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.LSQ,
)
class LSQSymmetricActivation(RangeQuantizer):
    """Learned step size over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dt = t_eff/t·r·Σ g·(round(x/Δ) - x/Δ inside, lowest below, highest above)/2^(b-s)
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

    Source: Esser et al. 2020, arXiv 1902.08153;
    r = 1/sqrt(N·highest), N = elements that share a parameter (of one sample).
    Of ewgs, Lee et al. 2021, arXiv 2104.00903; of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = LSQ


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.LSQ,
)
class LSQUniformActivation(RangeQuantizer):
    """Learned step size over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dmin = r·Σ (g where x < min'; -g·e/(2^b - 1) inside), with e = round(v) - v and v = (x - min')/Δ
    dL/dmax = r·Σ (g where x > max'; +g·e/(2^b - 1) inside)

    b is the number of bits, g = dL/dy; min' and max' are the ends, moved so that 0 is a level. They are one number
    each.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Esser et al. 2020, arXiv 1902.08153;
    r = 1/sqrt(N·highest), N = elements that share a parameter (of one sample).
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = LSQ


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[Method.LUT_POT_QUANTIZER],
    identifier=TrainingMethod.LSQ,
)
class LSQTableActivation(RangeQuantizer):
    """Quantization to the entries of a learned look-up table, scaled by a learned power of two.

    y = c[k]/2^(8-s)·t_eff, where k is the entry nearest to v = clip(x/t_eff·2^(8-s), lowest, highest)
    c = round(clip(sorted(u)·2^(8-s), lowest, highest))
    dL/dx = g where lowest·t_eff/2^(8-s) <= x <= highest·t_eff/2^(8-s), else 0
    dL/dt = t_eff/t·r·Σ g·(c[k] - v inside, c[k] outside)/2^(8-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain
    dL/du[k] = r·Σ g·t_eff over the x that take entry k

    The table has 2^b entries at b bits, 2 <= b <= 7, in lowest..highest: 0..255 and s = 0 where the configuration says
    unsigned, else -128..127 and s = 1. ``LUT_VALUES`` of the configuration are the integers c; the variable ``table``
    holds u = c/2^(8-s). g = dL/dy; t_eff is the power of two at or above max(t, min_threshold).

    Args:
        quantization_config: Bits, method, initial threshold and table.
        freeze_quant_params: Whether threshold and table keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no table, or does not fit the tensor.

    Source: Han et al. 2016, arXiv 1510.00149; r = 1/sqrt(N·highest of b bits), N = elements of one sample
    (Esser et al. 2020, arXiv 1902.08153).
    Of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = LSQ
