"""The trainable quantizers of weights: contract sections 3 and 4, one declaration each."""

from __future__ import annotations

from trainable_quantizers_core import QuantizationMethod as Method
from trainable_quantizers_core import (
    QuantizationTarget,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    mark_quantizer,
)
from trainable_quantizers_core.specification import LSQ, STE

from trainable_quantizers_torch.range_quantizer import PytorchRangeQuantizer


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.STE,
)
class STESymmetricWeightsTrainableQuantizer(PytorchRangeQuantizer):
    """Straight-through estimator over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g where x lies in the closed range, else 0
    dL/dt = t_eff/t·Σ g·(lowest where x is below the range, highest where it is above)/2^(b-s)

    The threshold has shape (), or (channels,) when quantizing per channel; weights are signed.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    """

    gradient = STE

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False) -> None:
        super().__init__(quantization_config, freeze_quant_params)


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.STE,
)
class STEUniformWeightsTrainableQuantizer(PytorchRangeQuantizer):
    """Straight-through estimator over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g where x lies in the closed range, else 0
    dL/dmin = Σ g where x < min'; dL/dmax = Σ g where x > max'

    The ends have shape (), or (channels,) when quantizing per channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Bengio et al. 2013, arXiv 1308.3432, with the gradient of the clipping bounds.
    """

    gradient = STE

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False) -> None:
        super().__init__(quantization_config, freeze_quant_params)


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.SYMMETRIC, Method.POWER_OF_TWO],
    identifier=TrainingMethod.LSQ,
)
class LSQSymmetricWeightsTrainableQuantizer(PytorchRangeQuantizer):
    """Learned step size over a symmetric or power-of-two range with one learned threshold.

    y = Δ·clip(round(x/Δ), lowest, highest), Δ = t_eff/2^(b-s)
    dL/dx = g where x lies in the closed range, else 0
    dL/dt = t_eff/t·r·Σ g·(round(x/Δ) - x/Δ inside, lowest below, highest above)/2^(b-s)

    The threshold has shape (), or (channels,) when quantizing per channel; weights are signed.

    Args:
        quantization_config: Bits, method and initial threshold.
        freeze_quant_params: Whether the threshold stays as it starts.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Esser et al. 2020, arXiv 1902.08153; r = 1/sqrt(N·highest), N = elements that share a parameter.
    """

    gradient = LSQ

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False) -> None:
        super().__init__(quantization_config, freeze_quant_params)


@mark_quantizer(
    quantization_target=QuantizationTarget.Weights,
    quantization_method=[Method.UNIFORM],
    identifier=TrainingMethod.LSQ,
)
class LSQUniformWeightsTrainableQuantizer(PytorchRangeQuantizer):
    """Learned step size over a range with two learned ends.

    y = Δ·(clip(round(x/Δ) + z, 0, 2^b - 1) - z), Δ = (max' - min')/(2^b - 1), z = -min'/Δ
    dL/dx = g where x lies in the closed range, else 0
    dL/dmin = r·Σ (g where x < min'; -g·e/(2^b - 1) inside), with e = round(v) - v and v = (x - min')/Δ
    dL/dmax = r·Σ (g where x > max'; +g·e/(2^b - 1) inside)

    The ends have shape (), or (channels,) when quantizing per channel.

    Args:
        quantization_config: Bits, method and initial range.
        freeze_quant_params: Whether the ends stay as they start.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Source: Esser et al. 2020, arXiv 1902.08153; r = 1/sqrt(N·highest), N = elements that share a parameter.
    """

    gradient = LSQ

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False) -> None:
        super().__init__(quantization_config, freeze_quant_params)
