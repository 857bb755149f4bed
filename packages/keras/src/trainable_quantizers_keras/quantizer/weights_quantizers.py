"""The trainable quantizers of weights in Keras; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import adaround, dqa, lsq, ste

from trainable_quantizers_keras.keras_version import PACKAGE, keras
from trainable_quantizers_keras.quantizer.candidates_quantizer import KerasCandidatesQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.quantizer.table_quantizer import KerasTableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class STESymmetricWeightsTrainableQuantizer(ste.STESymmetricWeights, KerasRangeQuantizer):
    __doc__ = ste.STESymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class STEUniformWeightsTrainableQuantizer(ste.STEUniformWeights, KerasRangeQuantizer):
    __doc__ = ste.STEUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQSymmetricWeightsTrainableQuantizer(lsq.LSQSymmetricWeights, KerasRangeQuantizer):
    __doc__ = lsq.LSQSymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQUniformWeightsTrainableQuantizer(lsq.LSQUniformWeights, KerasRangeQuantizer):
    __doc__ = lsq.LSQUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class AdaRoundSymmetricWeightsTrainableQuantizer(adaround.AdaRoundSymmetricWeights, KerasRangeQuantizer):
    __doc__ = adaround.AdaRoundSymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class AdaRoundUniformWeightsTrainableQuantizer(adaround.AdaRoundUniformWeights, KerasRangeQuantizer):
    __doc__ = adaround.AdaRoundUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class DQASymmetricWeightsTrainableQuantizer(dqa.DQASymmetricWeights, KerasCandidatesQuantizer):
    __doc__ = dqa.DQASymmetricWeights.__doc__
    candidate_class = LSQSymmetricWeightsTrainableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class DQAUniformWeightsTrainableQuantizer(dqa.DQAUniformWeights, KerasCandidatesQuantizer):
    __doc__ = dqa.DQAUniformWeights.__doc__
    candidate_class = LSQUniformWeightsTrainableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQTableWeightsTrainableQuantizer(lsq.LSQTableWeights, KerasTableQuantizer):
    __doc__ = lsq.LSQTableWeights.__doc__
