"""The shipped quantizers, one declaration each: marks, gradient, formulas. A framework joins them with its tensors."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod as Method
from mct_quantizers import QuantizationTarget, mark_quantizer

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer
from trainable_quantizers_core.quantizer.gradient_rule import ADAROUND, LSQ, STE
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

    The threshold is one number, or one for each channel; weights are signed.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: Whether its flip rates are measured, and weights that oscillate frozen; None does neither.

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

    The ends are one number each, or one for each channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: Whether its flip rates are measured, and weights that oscillate frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = STE


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

    The threshold is one number, or one for each channel; weights are signed.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: Whether its flip rates are measured, and weights that oscillate frozen; None does neither.

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

    The ends are one number each, or one for each channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: Whether its flip rates are measured, and weights that oscillate frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Esser et al. 2020, arXiv 1902.08153; r = 1/sqrt(N·highest), N = elements that share a parameter.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = LSQ


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

    dL/dx = g where u lies in the closed range, else 0
    dL/dα = the same, times Δ·dh/dα
    dL/dt = t_eff/t·Σ g·(lowest where u is below the range, highest where it is above)/2^(b-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain

    α starts at 0, one for each weight: y = x in training, and the nearest level otherwise. ``start`` and ``ramp`` of
    the schedule say when ``rounding_regularizer`` begins to pull h to 0 or 1, and for how many steps.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts; α learns.
        schedule: When rounding becomes hard; None is from the first step on.

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
    y = clip(u, lowest·Δ, highest·Δ) in training, before the schedule ends
    y = Δ·(clip(round(u/Δ) + z, 0, 2^b - 1) - z) from its end on, and in evaluation at any step

    dL/dx = g where u lies in the closed range, else 0
    dL/dα = the same, times Δ·dh/dα
    dL/dmin = Σ g where u < min'; dL/dmax = Σ g where u > max'

    α starts at 0, one for each weight: y = x in training, and the nearest level otherwise. ``start`` and ``ramp`` of
    the schedule say when ``rounding_regularizer`` begins to pull h to 0 or 1, and for how many steps.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start; α learns.
        schedule: When rounding becomes hard; None is from the first step on.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Nagel et al. 2020, arXiv 2004.10568; α is the distance of its V from the V that reproduces the weight.
    """

    gradient = ADAROUND


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.DQA,
)
class DQASymmetricWeights(CandidatesQuantizer):
    """Quantization with attention over symmetric or power-of-two ranges: each weight learns how many bits it needs.

    y = Σ p_k·q_k(x) in training, before the schedule ends, with p = softmax(a/τ)
    y = q_k(x) with the largest a_k from its end on, and in evaluation at any step

    dL/dx = Σ p_k times that of LSQ with candidate k
    dL/da_k = p_k/τ·Σ g·(q_k(x) - y)
    dL/dt_k, or dL/d(log2 t_k), = p_k times that of LSQ

    q_k is the LSQ quantizer of a candidate, with a threshold of its own. a starts at 0, and the width of
    ``weights_n_bits`` is the first of equal ones. τ falls from 1 at ``start`` of the schedule to 0.01 at the end of its
    ``ramp``; after that a keeps its value. ``budget_regularizer`` makes widths cost something.

    Args:
        quantization_config: Method, and the candidates, ``weights_n_bits`` among them, with their initial thresholds.
        freeze_quant_params: Whether the thresholds stay as they start; a learns.
        schedule: When τ falls; None is as if it had ended, so that the width stays.

    Raises:
        QuantizerError: no candidates, or such that leave no grid, or do not fit the tensor.

    Source: Boukli Hacene et al. 2021, arXiv 2103.13322.
    """


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.DQA,
)
class DQAUniformWeights(CandidatesQuantizer):
    """Quantization with attention over ranges with two ends: each weight learns how many bits it needs.

    y = Σ p_k·q_k(x) in training, before the schedule ends, with p = softmax(a/τ)
    y = q_k(x) with the largest a_k from its end on, and in evaluation at any step

    dL/dx = Σ p_k times that of LSQ with candidate k
    dL/da_k = p_k/τ·Σ g·(q_k(x) - y)
    dL/dmin_k, dL/dmax_k = p_k times those of LSQ

    q_k is the LSQ quantizer of a candidate, with a range of its own. a starts at 0, and the width of
    ``weights_n_bits`` is the first of equal ones. τ falls from 1 at ``start`` of the schedule to 0.01 at the end of its
    ``ramp``; after that a keeps its value. ``budget_regularizer`` makes widths cost something.

    Args:
        quantization_config: Method, and the candidates, ``weights_n_bits`` among them, with their initial ranges.
        freeze_quant_params: Whether the ends stay as they start; a learns.
        schedule: When τ falls; None is as if it had ended, so that the width stays.

    Raises:
        QuantizerError: no candidates, or such that leave no grid, or do not fit the tensor.

    Source: Boukli Hacene et al. 2021, arXiv 2103.13322.
    """


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

    The table has 2^b entries, 2 <= b <= 7, and serves the whole tensor; the threshold is one number, or one for each
    channel. ``LUT_VALUES`` of the configuration are the integers c; the variable holds u = c/128.

    Args:
        quantization_config: Bits, method, initial threshold and table.
        freeze_quant_params: Whether threshold and table stay as they start.
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
    identifier=TrainingMethod.STE,
)
class STESymmetricActivation(RangeQuantizer):
    """Straight-through estimator over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g·(1 - ewgs·sign(g)·(y - x)/Δ) where x lies in the closed range, else 0
    dL/dt = t_eff/t·Σ g·(lowest where x is below the range, highest where it is above)/2^(b-s)
    dL/d(log2 t) = dL/dt·t·ln 2 where the configuration puts the threshold into the log2 domain

    The threshold is one number; unsigned when the configuration says so.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.
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

    The ends are one number each.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    Of ewgs, Lee et al. 2021, arXiv 2104.00903.
    """

    gradient = STE


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

    The threshold is one number; unsigned when the configuration says so.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.
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

    The ends are one number each.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.
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

    The table has 2^b entries, 2 <= b <= 7, in -128..127, or in 0..255 where the configuration says unsigned; s = 1
    where it is signed, else 0. ``LUT_VALUES`` are the integers c; the variable holds u = c/2^(8-s).

    Args:
        quantization_config: Bits, method, initial threshold and table.
        freeze_quant_params: Whether threshold and table stay as they start.
        schedule: When it quantizes and learns; None does both from the first step.

    Raises:
        QuantizerError: the configuration leaves no table, or does not fit the tensor.

    Source: Han et al. 2016, arXiv 1510.00149; r = 1/sqrt(N·highest of b bits), N = elements of one sample
    (Esser et al. 2020, arXiv 1902.08153).
    Of the log2 domain, Jain et al. 2019, arXiv 1903.08066.
    """

    gradient = LSQ
