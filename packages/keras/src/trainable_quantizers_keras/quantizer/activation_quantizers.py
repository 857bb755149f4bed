"""The trainable quantizers of activations in Keras; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import lsq, ste

from trainable_quantizers_keras.keras_version import PACKAGE, keras
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasActivationTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.quantizer.table_quantizer import KerasTableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class STESymmetricActivationTrainableQuantizer(
    ste.STESymmetricActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = ste.STESymmetricActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class STEUniformActivationTrainableQuantizer(
    ste.STEUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = ste.STEUniformActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQSymmetricActivationTrainableQuantizer(
    lsq.LSQSymmetricActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = lsq.LSQSymmetricActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQUniformActivationTrainableQuantizer(
    lsq.LSQUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = lsq.LSQUniformActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQTableActivationTrainableQuantizer(
    lsq.LSQTableActivation, KerasTableQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = lsq.LSQTableActivation.__doc__
