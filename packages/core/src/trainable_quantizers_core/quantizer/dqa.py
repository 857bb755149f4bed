"""DQA, quantization with attention: each weight tensor learns its number of bits."""

from __future__ import annotations

from mct_quantizers import QuantizationMethod as Method
from mct_quantizers import QuantizationTarget, mark_quantizer

from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.DQA,
)
class DQASymmetricWeights(CandidatesQuantizer):
    """Quantization with attention over symmetric or power-of-two ranges: each weight learns its number of bits.

    y = Σ p_k·q_k(x) in training, before the schedule ends, with p = softmax(a/τ)
    y = q_k(x) with the largest a_k from its end on, and in evaluation at any step

    dL/dx = Σ p_k times that of LSQ with candidate k
    dL/da_k = p_k/τ·Σ g·(q_k(x) - y)
    dL/dt_k, or dL/d(log2 t_k), = p_k times that of LSQ

    q_k is the LSQ quantizer of a candidate, with a threshold of its own; g = dL/dy. The variable ``attention`` holds a,
    which starts at 0; among equal a, the width of ``weights_n_bits`` is chosen. τ falls from 1 at ``start`` of the
    schedule to 0.01 at the end of its ``ramp``, in steps of the optimizer; after that a keeps its value.
    ``budget_regularizer`` penalizes widths that exceed a budget.

    Args:
        quantization_config: Method, and the candidates, ``weights_n_bits`` among them, with their initial thresholds.
        freeze_quant_params: Whether the thresholds keep their initial values; a still learns.
        schedule: When τ falls; None acts as if it had ended, so that the width is fixed.

    Raises:
        QuantizerError: no candidates, or candidates that leave no grid or do not fit the tensor.

    Source: Boukli Hacene et al. 2021, arXiv 2103.13322.
    """


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.DQA,
)
class DQAUniformWeights(CandidatesQuantizer):
    """Quantization with attention over ranges with two ends: each weight learns its number of bits.

    y = Σ p_k·q_k(x) in training, before the schedule ends, with p = softmax(a/τ)
    y = q_k(x) with the largest a_k from its end on, and in evaluation at any step

    dL/dx = Σ p_k times that of LSQ with candidate k
    dL/da_k = p_k/τ·Σ g·(q_k(x) - y)
    dL/dmin_k, dL/dmax_k = p_k times those of LSQ

    q_k is the LSQ quantizer of a candidate, with a range of its own; g = dL/dy. The variable ``attention`` holds a,
    which starts at 0; among equal a, the width of ``weights_n_bits`` is chosen. τ falls from 1 at ``start`` of the
    schedule to 0.01 at the end of its ``ramp``, in steps of the optimizer; after that a keeps its value.
    ``budget_regularizer`` penalizes widths that exceed a budget.

    Args:
        quantization_config: Method, and the candidates, ``weights_n_bits`` among them, with their initial ranges.
        freeze_quant_params: Whether the ends keep their initial values; a still learns.
        schedule: When τ falls; None acts as if it had ended, so that the width is fixed.

    Raises:
        QuantizerError: no candidates, or candidates that leave no grid or do not fit the tensor.

    Source: Boukli Hacene et al. 2021, arXiv 2103.13322.
    """
