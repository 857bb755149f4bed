"""The trainable quantizers of activations in PyTorch; their declarations hold the formulas."""

from __future__ import annotations

from trainable_quantizers_core.quantizer import declarations

from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchActivationTrainableQuantizer
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer
from trainable_quantizers_torch.quantizer.table_quantizer import PytorchTableQuantizer


class STESymmetricActivationTrainableQuantizer(
    declarations.STESymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = declarations.STESymmetricActivation.__doc__


class STEUniformActivationTrainableQuantizer(
    declarations.STEUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = declarations.STEUniformActivation.__doc__


class LSQSymmetricActivationTrainableQuantizer(
    declarations.LSQSymmetricActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = declarations.LSQSymmetricActivation.__doc__


class LSQUniformActivationTrainableQuantizer(
    declarations.LSQUniformActivation, PytorchRangeQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = declarations.LSQUniformActivation.__doc__


class LSQTableActivationTrainableQuantizer(
    declarations.LSQTableActivation, PytorchTableQuantizer, BasePytorchActivationTrainableQuantizer
):
    __doc__ = declarations.LSQTableActivation.__doc__
