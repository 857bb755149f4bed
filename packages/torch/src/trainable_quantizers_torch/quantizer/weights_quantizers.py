"""The trainable quantizers of weights in PyTorch; the core's specifications hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import adaround, dqa, lsq, ste

from trainable_quantizers_torch.quantizer.candidates_quantizer import PytorchCandidatesQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricWeightsTrainableQuantizer(ste.STESymmetricWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.SYMMETRIC, 2, {THRESHOLD: 1.0}, True, 0, False)
        >>> quantizer = STESymmetricWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((4,), "weight", torch.nn.Module())
        >>> y = quantizer(torch.tensor([0.375, 0.125, -9.0, 9.0]))
        >>> y.sum().backward()
        >>> gradient = quantizer.get_quantizer_variable(THRESHOLD).grad.item()
        >>> y.tolist(), gradient  # of -9 and 9 alone: (lowest + highest)/2
        ([0.5, 0.0, -1.0, 0.5], -0.5)
    """

    __doc__ = f"{ste.STESymmetricWeights.__doc__}{__doc__}"


class STEUniformWeightsTrainableQuantizer(ste.STEUniformWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: -0.625, RANGE_MAX: 0.875}
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.UNIFORM, 2, params, True, 0, False)
        >>> quantizer = STEUniformWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((4,), "weight", torch.nn.Module())
        >>> [end.tolist() for end in quantizer.effective_range()]  # shifted: 0 is a level
        [-0.5, 1.0]
        >>> quantizer(torch.tensor([-9.0, 0.125, 0.375, 9.0])).tolist()
        [-0.5, 0.0, 0.5, 1.0]
    """

    __doc__ = f"{ste.STEUniformWeights.__doc__}{__doc__}"


class LSQSymmetricWeightsTrainableQuantizer(lsq.LSQSymmetricWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.SYMMETRIC, 2, {THRESHOLD: 1.0}, True, 0, False)
        >>> quantizer = LSQSymmetricWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((4,), "weight", torch.nn.Module())
        >>> y = quantizer(torch.tensor([0.375, 0.375, -9.0, 9.0]))
        >>> y.sum().backward()
        >>> gradient = quantizer.get_quantizer_variable(THRESHOLD).grad.item()
        >>> y.tolist(), gradient  # r·(0.25 + 0.25 + lowest + highest)/2, r = 1/2
        ([0.5, 0.5, -1.0, 0.5], -0.125)
    """

    __doc__ = f"{lsq.LSQSymmetricWeights.__doc__}{__doc__}"


class LSQUniformWeightsTrainableQuantizer(lsq.LSQUniformWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: [-0.5, -1.0], RANGE_MAX: [1.0, 2.0]}
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.UNIFORM, 2, params, True, 0, True)
        >>> quantizer = LSQUniformWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((2, 2), "weight", torch.nn.Module())
        >>> quantizer.step().tolist()  # a range for each row
        [0.5, 1.0]
        >>> quantizer(torch.tensor([[0.375, 9.0], [0.375, 9.0]])).tolist()
        [[0.5, 1.0], [0.0, 2.0]]
    """

    __doc__ = f"{lsq.LSQUniformWeights.__doc__}{__doc__}"


class AdaRoundSymmetricWeightsTrainableQuantizer(adaround.AdaRoundSymmetricWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.SYMMETRIC, 2, {THRESHOLD: 1.0}, True, 0, False)
        >>> quantizer = AdaRoundSymmetricWeightsTrainableQuantizer(config, schedule=QuantizationSchedule(ramp=100))
        >>> quantizer.initialize_quantization((2,), "weight", torch.nn.Module())
        >>> x = torch.tensor([0.125, 0.375])
        >>> quantizer(x, training=False).tolist()  # to the nearest, until α has learned
        [0.0, 0.5]
        >>> quantizer.write_variable("alpha", [4.0, -4.0])
        >>> quantizer(x, training=False).tolist()  # the first up, the second down
        [0.5, 0.0]
    """

    __doc__ = f"{adaround.AdaRoundSymmetricWeights.__doc__}{__doc__}"


class AdaRoundUniformWeightsTrainableQuantizer(adaround.AdaRoundUniformWeights, PytorchRangeQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: -0.5, RANGE_MAX: 1.0}
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.UNIFORM, 2, params, True, 0, False)
        >>> quantizer = AdaRoundUniformWeightsTrainableQuantizer(config, schedule=QuantizationSchedule(ramp=100))
        >>> quantizer.initialize_quantization((2,), "weight", torch.nn.Module())
        >>> x = torch.tensor([0.625, 0.875])
        >>> quantizer(x, training=False).tolist()  # to the nearest, until α has learned
        [0.5, 1.0]
        >>> quantizer.write_variable("alpha", [4.0, -4.0])
        >>> quantizer(x, training=False).tolist()  # the first up, the second down
        [1.0, 0.5]
    """

    __doc__ = f"{adaround.AdaRoundUniformWeights.__doc__}{__doc__}"


class DQASymmetricWeightsTrainableQuantizer(dqa.DQASymmetricWeights, PytorchCandidatesQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {THRESHOLD: 1.0}
        >>> candidates = [TrainableQuantizerCandidateConfig(bits, params) for bits in (2, 4)]
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.SYMMETRIC, 4, params, True, 0, False, weights_quantization_candidates=candidates)
        >>> quantizer = DQASymmetricWeightsTrainableQuantizer(config, schedule=QuantizationSchedule(ramp=100))
        >>> quantizer.initialize_quantization((2,), "weight", torch.nn.Module())
        >>> quantizer.widths, quantizer.shares().tolist()
        ([4, 2], [0.5, 0.5])
        >>> x = torch.tensor([0.3, -9.0])
        >>> quantizer(x, training=True).tolist(), quantizer(x, training=False).tolist()
        ([0.375, -1.0], [0.25, -1.0])
    """

    __doc__ = f"{dqa.DQASymmetricWeights.__doc__}{__doc__}"
    candidate_class = LSQSymmetricWeightsTrainableQuantizer


class DQAUniformWeightsTrainableQuantizer(dqa.DQAUniformWeights, PytorchCandidatesQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: -0.5, RANGE_MAX: 1.0}
        >>> candidates = [TrainableQuantizerCandidateConfig(bits, params) for bits in (2, 4)]
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.UNIFORM, 4, params, True, 0, False, weights_quantization_candidates=candidates)
        >>> quantizer = DQAUniformWeightsTrainableQuantizer(config, schedule=QuantizationSchedule(ramp=100))
        >>> quantizer.initialize_quantization((2,), "weight", torch.nn.Module())
        >>> x = torch.tensor([0.3, 9.0])
        >>> [round(value, 2) for value in quantizer(x, training=False).tolist()]  # at 4 bits
        [0.3, 1.0]
        >>> quantizer.choose(2)
        >>> quantizer(x, training=False).tolist()
        [0.5, 1.0]
    """

    __doc__ = f"{dqa.DQAUniformWeights.__doc__}{__doc__}"
    candidate_class = LSQUniformWeightsTrainableQuantizer


class LSQTableWeightsTrainableQuantizer(lsq.LSQTableWeights, PytorchTableQuantizer):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {THRESHOLD: 1.0, LUT_VALUES: [-64, 0, 32, 96]}
        >>> config = TrainableQuantizerWeightsConfig(QuantizationMethod.LUT_POT_QUANTIZER, 2, params, True, 0, False)
        >>> quantizer = LSQTableWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((4,), "weight", torch.nn.Module())
        >>> quantizer(torch.tensor([-9.0, 0.1, 0.2, 9.0])).tolist()  # entries/128
        [-0.5, 0.0, 0.25, 0.75]
    """

    __doc__ = f"{lsq.LSQTableWeights.__doc__}{__doc__}"
