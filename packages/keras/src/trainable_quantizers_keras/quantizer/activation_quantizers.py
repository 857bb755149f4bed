"""The trainable quantizers of activations in Keras; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import declarations

from trainable_quantizers_keras.keras_version import PACKAGE, keras
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasActivationTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer
from trainable_quantizers_keras.quantizer.table_quantizer import KerasTableQuantizer


@keras.utils.register_keras_serializable(package=PACKAGE)
class STESymmetricActivationTrainableQuantizer(
    declarations.STESymmetricActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = declarations.STESymmetricActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class STEUniformActivationTrainableQuantizer(
    declarations.STEUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = declarations.STEUniformActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQSymmetricActivationTrainableQuantizer(
    declarations.LSQSymmetricActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = declarations.LSQSymmetricActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQUniformActivationTrainableQuantizer(
    declarations.LSQUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = declarations.LSQUniformActivation.__doc__


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQTableActivationTrainableQuantizer(
    declarations.LSQTableActivation, KerasTableQuantizer, BaseKerasActivationTrainableQuantizer
):
    __doc__ = declarations.LSQTableActivation.__doc__
