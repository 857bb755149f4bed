"""The trainable quantizers of weights in PyTorch; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import declarations

from trainable_quantizers_torch.quantizer.candidates_quantizer import PytorchCandidatesQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricWeightsTrainableQuantizer(declarations.STESymmetricWeights, PytorchRangeQuantizer):
    __doc__ = declarations.STESymmetricWeights.__doc__


class STEUniformWeightsTrainableQuantizer(declarations.STEUniformWeights, PytorchRangeQuantizer):
    __doc__ = declarations.STEUniformWeights.__doc__


class LSQSymmetricWeightsTrainableQuantizer(declarations.LSQSymmetricWeights, PytorchRangeQuantizer):
    __doc__ = declarations.LSQSymmetricWeights.__doc__


class LSQUniformWeightsTrainableQuantizer(declarations.LSQUniformWeights, PytorchRangeQuantizer):
    __doc__ = declarations.LSQUniformWeights.__doc__


class AdaRoundSymmetricWeightsTrainableQuantizer(declarations.AdaRoundSymmetricWeights, PytorchRangeQuantizer):
    __doc__ = declarations.AdaRoundSymmetricWeights.__doc__


class AdaRoundUniformWeightsTrainableQuantizer(declarations.AdaRoundUniformWeights, PytorchRangeQuantizer):
    __doc__ = declarations.AdaRoundUniformWeights.__doc__


class DQASymmetricWeightsTrainableQuantizer(declarations.DQASymmetricWeights, PytorchCandidatesQuantizer):
    __doc__ = declarations.DQASymmetricWeights.__doc__
    candidate_class = LSQSymmetricWeightsTrainableQuantizer


class DQAUniformWeightsTrainableQuantizer(declarations.DQAUniformWeights, PytorchCandidatesQuantizer):
    __doc__ = declarations.DQAUniformWeights.__doc__
    candidate_class = LSQUniformWeightsTrainableQuantizer


class LSQTableWeightsTrainableQuantizer(declarations.LSQTableWeights, PytorchTableQuantizer):
    __doc__ = declarations.LSQTableWeights.__doc__
