"""The trainable quantizers of weights in PyTorch; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import adaround, dqa, lsq, ste

from trainable_quantizers_torch.quantizer.candidates_quantizer import PytorchCandidatesQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricWeightsTrainableQuantizer(ste.STESymmetricWeights, PytorchRangeQuantizer):
    __doc__ = ste.STESymmetricWeights.__doc__


class STEUniformWeightsTrainableQuantizer(ste.STEUniformWeights, PytorchRangeQuantizer):
    __doc__ = ste.STEUniformWeights.__doc__


class LSQSymmetricWeightsTrainableQuantizer(lsq.LSQSymmetricWeights, PytorchRangeQuantizer):
    __doc__ = lsq.LSQSymmetricWeights.__doc__


class LSQUniformWeightsTrainableQuantizer(lsq.LSQUniformWeights, PytorchRangeQuantizer):
    __doc__ = lsq.LSQUniformWeights.__doc__


class AdaRoundSymmetricWeightsTrainableQuantizer(adaround.AdaRoundSymmetricWeights, PytorchRangeQuantizer):
    __doc__ = adaround.AdaRoundSymmetricWeights.__doc__


class AdaRoundUniformWeightsTrainableQuantizer(adaround.AdaRoundUniformWeights, PytorchRangeQuantizer):
    __doc__ = adaround.AdaRoundUniformWeights.__doc__


class DQASymmetricWeightsTrainableQuantizer(dqa.DQASymmetricWeights, PytorchCandidatesQuantizer):
    __doc__ = dqa.DQASymmetricWeights.__doc__
    candidate_class = LSQSymmetricWeightsTrainableQuantizer


class DQAUniformWeightsTrainableQuantizer(dqa.DQAUniformWeights, PytorchCandidatesQuantizer):
    __doc__ = dqa.DQAUniformWeights.__doc__
    candidate_class = LSQUniformWeightsTrainableQuantizer


class LSQTableWeightsTrainableQuantizer(lsq.LSQTableWeights, PytorchTableQuantizer):
    __doc__ = lsq.LSQTableWeights.__doc__
