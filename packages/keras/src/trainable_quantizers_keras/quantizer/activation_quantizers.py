"""The trainable quantizers of activations in Keras; the core's specifications hold the formulas."""

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
    """
    Examples:
        >>> import tensorflow as tf
        >>> from trainable_quantizers_keras import *
        >>> params = {THRESHOLD: 1.0, SIGNED: False}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.SYMMETRIC, 2, params, True)
        >>> holder = KerasActivationQuantizationHolder(STESymmetricActivationTrainableQuantizer(config))
        >>> holder(tf.constant([-9.0, 0.3, 9.0])).numpy().tolist()  # levels 0..3 of 1/4
        [0.0, 0.25, 0.75]
    """

    __doc__ = f"{ste.STESymmetricActivation.__doc__}{__doc__}"


@keras.utils.register_keras_serializable(package=PACKAGE)
class STEUniformActivationTrainableQuantizer(
    ste.STEUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    """
    Examples:
        >>> import tensorflow as tf
        >>> from trainable_quantizers_keras import *
        >>> params = {RANGE_MIN: -0.625, RANGE_MAX: 0.875}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.UNIFORM, 2, params, True)
        >>> holder = KerasActivationQuantizationHolder(STEUniformActivationTrainableQuantizer(config))
        >>> holder(tf.constant([-9.0, 0.125, 9.0])).numpy().tolist()  # -0.5..1: 0 is a level
        [-0.5, 0.0, 1.0]
    """

    __doc__ = f"{ste.STEUniformActivation.__doc__}{__doc__}"


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQSymmetricActivationTrainableQuantizer(
    lsq.LSQSymmetricActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    """
    Examples:
        >>> import tensorflow as tf
        >>> from trainable_quantizers_keras import *
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.POWER_OF_TWO, 3, {THRESHOLD: 3.0}, True)
        >>> holder = KerasActivationQuantizationHolder(LSQSymmetricActivationTrainableQuantizer(config))
        >>> holder(tf.constant([-9.0, 0.7, 9.0])).numpy().tolist()  # t_eff = 4, the power of two above 3
        [-4.0, 1.0, 3.0]
    """

    __doc__ = f"{lsq.LSQSymmetricActivation.__doc__}{__doc__}"


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQUniformActivationTrainableQuantizer(
    lsq.LSQUniformActivation, KerasRangeQuantizer, BaseKerasActivationTrainableQuantizer
):
    """
    Examples:
        >>> import tensorflow as tf
        >>> from trainable_quantizers_keras import *
        >>> params = {RANGE_MIN: 0.5, RANGE_MAX: 1.5}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.UNIFORM, 2, params, True)
        >>> holder = KerasActivationQuantizationHolder(LSQUniformActivationTrainableQuantizer(config))
        >>> holder(tf.constant([-9.0, 0.7, 9.0])).numpy().tolist()  # 0..1.5: a range holds 0
        [0.0, 0.5, 1.5]
    """

    __doc__ = f"{lsq.LSQUniformActivation.__doc__}{__doc__}"


@keras.utils.register_keras_serializable(package=PACKAGE)
class LSQTableActivationTrainableQuantizer(
    lsq.LSQTableActivation, KerasTableQuantizer, BaseKerasActivationTrainableQuantizer
):
    """
    Examples:
        >>> import tensorflow as tf
        >>> from trainable_quantizers_keras import *
        >>> params = {THRESHOLD: 1.0, SIGNED: False, LUT_VALUES: [0, 16, 64, 192]}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.LUT_POT_QUANTIZER, 2, params, True)
        >>> holder = KerasActivationQuantizationHolder(LSQTableActivationTrainableQuantizer(config))
        >>> holder(tf.constant([-9.0, 0.05, 0.2, 9.0])).numpy().tolist()  # entries/256
        [0.0, 0.0625, 0.25, 0.75]
    """

    __doc__ = f"{lsq.LSQTableActivation.__doc__}{__doc__}"
