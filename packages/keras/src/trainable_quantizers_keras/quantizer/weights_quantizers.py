"""The trainable quantizers of weights in Keras; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import declarations

from trainable_quantizers_keras.keras_version import PACKAGE, keras
from trainable_quantizers_keras.quantizer.candidates_quantizer import KerasCandidatesQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.quantizer.table_quantizer import KerasTableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class STESymmetricWeightsTrainableQuantizer(declarations.STESymmetricWeights, KerasRangeQuantizer):
    __doc__ = declarations.STESymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class STEUniformWeightsTrainableQuantizer(declarations.STEUniformWeights, KerasRangeQuantizer):
    __doc__ = declarations.STEUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQSymmetricWeightsTrainableQuantizer(declarations.LSQSymmetricWeights, KerasRangeQuantizer):
    __doc__ = declarations.LSQSymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQUniformWeightsTrainableQuantizer(declarations.LSQUniformWeights, KerasRangeQuantizer):
    __doc__ = declarations.LSQUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class AdaRoundSymmetricWeightsTrainableQuantizer(declarations.AdaRoundSymmetricWeights, KerasRangeQuantizer):
    __doc__ = declarations.AdaRoundSymmetricWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class AdaRoundUniformWeightsTrainableQuantizer(declarations.AdaRoundUniformWeights, KerasRangeQuantizer):
    __doc__ = declarations.AdaRoundUniformWeights.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class DQASymmetricWeightsTrainableQuantizer(declarations.DQASymmetricWeights, KerasCandidatesQuantizer):
    __doc__ = declarations.DQASymmetricWeights.__doc__
    candidate_class = LSQSymmetricWeightsTrainableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class DQAUniformWeightsTrainableQuantizer(declarations.DQAUniformWeights, KerasCandidatesQuantizer):
    __doc__ = declarations.DQAUniformWeights.__doc__
    candidate_class = LSQUniformWeightsTrainableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQTableWeightsTrainableQuantizer(declarations.LSQTableWeights, KerasTableQuantizer):
    __doc__ = declarations.LSQTableWeights.__doc__
