"""The trainable quantizers of activations in PyTorch; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import lsq, ste

from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchActivationTrainableQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricActivationTrainableQuantizer(
    ste.STESymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = ste.STESymmetricActivation.__doc__


class STEUniformActivationTrainableQuantizer(
    ste.STEUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = ste.STEUniformActivation.__doc__


class LSQSymmetricActivationTrainableQuantizer(
    lsq.LSQSymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = lsq.LSQSymmetricActivation.__doc__


class LSQUniformActivationTrainableQuantizer(
    lsq.LSQUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = lsq.LSQUniformActivation.__doc__


class LSQTableActivationTrainableQuantizer(
    lsq.LSQTableActivation, PytorchTableQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = lsq.LSQTableActivation.__doc__
