"""The trainable quantizers of activations in PyTorch; the core's specifications hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import lsq, ste

from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchActivationTrainableQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricActivationTrainableQuantizer(
    ste.STESymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {THRESHOLD: 1.0, SIGNED: False}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.SYMMETRIC, 2, params, True)
        >>> holder = PytorchTrainableActivationQuantizationHolder(STESymmetricActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([-9.0, 0.3, 9.0])).tolist()  # levels 0..3 of 1/4
        [0.0, 0.25, 0.75]
    """

    __doc__ = f"{ste.STESymmetricActivation.__doc__}{__doc__}"


class STEUniformActivationTrainableQuantizer(
    ste.STEUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: -0.625, RANGE_MAX: 0.875}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.UNIFORM, 2, params, True)
        >>> holder = PytorchTrainableActivationQuantizationHolder(STEUniformActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([-9.0, 0.125, 9.0])).tolist()  # -0.5..1: 0 is a level
        [-0.5, 0.0, 1.0]
    """

    __doc__ = f"{ste.STEUniformActivation.__doc__}{__doc__}"


class LSQSymmetricActivationTrainableQuantizer(
    lsq.LSQSymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.POWER_OF_TWO, 3, {THRESHOLD: 3.0}, True)
        >>> holder = PytorchTrainableActivationQuantizationHolder(LSQSymmetricActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([-9.0, 0.7, 9.0])).tolist()  # t_eff = 4, the power of two above 3
        [-4.0, 1.0, 3.0]
    """

    __doc__ = f"{lsq.LSQSymmetricActivation.__doc__}{__doc__}"


class LSQUniformActivationTrainableQuantizer(
    lsq.LSQUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {RANGE_MIN: 0.5, RANGE_MAX: 1.5}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.UNIFORM, 2, params, True)
        >>> holder = PytorchTrainableActivationQuantizationHolder(LSQUniformActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([-9.0, 0.7, 9.0])).tolist()  # 0..1.5: a range holds 0
        [0.0, 0.5, 1.5]
    """

    __doc__ = f"{lsq.LSQUniformActivation.__doc__}{__doc__}"


class LSQTableActivationTrainableQuantizer(
    lsq.LSQTableActivation, PytorchTableQuantizer, BasePytorchActivationTrainableQuantizer
):
    """
    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import *
        >>> params = {THRESHOLD: 1.0, SIGNED: False, LUT_VALUES: [0, 16, 64, 192]}
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.LUT_POT_QUANTIZER, 2, params, True)
        >>> holder = PytorchTrainableActivationQuantizationHolder(LSQTableActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([-9.0, 0.05, 0.2, 9.0])).tolist()  # entries/256
        [0.0, 0.0625, 0.25, 0.75]
    """

    __doc__ = f"{lsq.LSQTableActivation.__doc__}{__doc__}"
