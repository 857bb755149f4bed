"""The suite is no rubber stamp: broken quantizers are rejected by the check that their fault belongs to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import trainable_quantizers_torch as tq
from trainable_quantizers_core import QuantizationMethod as Method
from trainable_quantizers_core import QuantizationTarget as Target
from trainable_quantizers_core import (
    QuantizerError,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.conformance import checks, load_adapters
from trainable_quantizers_core.conformance.cases import Case
from trainable_quantizers_core.quantizer.grid import Grid, range_step, symmetric_range
from trainable_quantizers_torch.conformance import TorchAdapter
from trainable_quantizers_torch.kernels.effective import TORCH_OPS

WEIGHTS = TrainableQuantizerWeightsConfig
ACTIVATION = TrainableQuantizerActivationConfig


class SymmetricWeights(tq.LSQSymmetricWeightsTrainableQuantizer):
    """What the broken ones derive from; not broken itself, as are the three below."""


class UniformWeights(tq.LSQUniformWeightsTrainableQuantizer):
    pass


class SymmetricActivation(tq.LSQSymmetricActivationTrainableQuantizer):
    pass


class UniformActivation(tq.LSQUniformActivationTrainableQuantizer):
    pass


class _Bend(torch.autograd.Function):
    """The identity, with another sign of the gradient."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def passing(x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Zero, with the gradient of x at some places."""
    return torch.where(where, x - x.detach(), 0.0)


class LeakingGradient(SymmetricActivation):
    def __call__(self, inputs, training=True):
        low, high = self.effective_range()
        return super().__call__(inputs, training) + passing(inputs, (inputs < low) | (inputs > high))


class MaskOnTheRoundedLevel(SymmetricActivation):
    def __call__(self, inputs, training=True):
        low, high = self.effective_range()
        half = range_step(TORCH_OPS, low, high, self.specification.grid) / 2
        band = ((inputs < low) & (inputs >= low - half)) | ((inputs > high) & (inputs <= high + half))
        return super().__call__(inputs, training) + passing(inputs, band)


class WrongSignWhereSaturated(SymmetricActivation):
    gradient = tq.GradientRule(from_rounding=False, scaled=True)

    def effective_range(self):
        low, high = super().effective_range()
        return _Bend.apply(low), _Bend.apply(high)


class OffByOneBound(SymmetricActivation):
    def __call__(self, inputs, training=True):
        low, high = self.effective_range()
        step = range_step(TORCH_OPS, low, high, self.specification.grid).detach()
        return super().__call__(inputs, training) + torch.where(inputs > high + step / 2, step, 0.0)


class UnsignedAsSigned(SymmetricActivation):
    def __init__(self, quantization_config: ACTIVATION, freeze_quant_params: bool = False):
        super().__init__(quantization_config, freeze_quant_params)
        self.specification = replace(self.specification, grid=Grid(self.specification.grid.num_bits, True))


class PowerOfTwoAtConversionOnly(SymmetricActivation):
    def effective_range(self):
        threshold = self.get_quantizer_variable("threshold").clamp_min(self.specification.min_threshold)
        return symmetric_range(threshold, self.specification.grid)


class MissingFactor(SymmetricWeights):
    gradient = tq.GradientRule(from_rounding=True, scaled=False)


class FactorOfOneAxis(SymmetricActivation):
    def _shared_by(self, inputs):
        return inputs.shape[-1] if inputs.ndim else 1


class MissingRoundingErrors(UniformWeights):
    gradient = tq.GradientRule(from_rounding=False, scaled=True)


class IgnoredChannelAxis(SymmetricWeights):
    def effective_range(self):
        low, high = super().effective_range()
        return low.mean().expand_as(low), high.mean().expand_as(high)


class HalvesRoundUp(SymmetricActivation):
    def __call__(self, inputs, training=True):
        y = super().__call__(inputs, training)
        low, high = self.effective_range()
        step = range_step(TORCH_OPS, low, high, self.specification.grid)
        up = torch.floor(inputs / step + 0.5).clamp(self.specification.grid.lowest, self.specification.grid.highest)
        return y + (up * step - y).detach()


class FrozenTrained(SymmetricWeights):
    def _create_variable(self, layer, name, value, trainable):
        layer.register_parameter(name, torch.nn.Parameter(torch.tensor(value)))
        return getattr(layer, name)


class SwappedAtExport(UniformWeights):
    def _create_inferable(self, class_name, values, target):
        swapped = {"min_range": -values["max_range"], "max_range": -values["min_range"]}
        return super()._create_inferable(class_name, swapped, target)

    def _set_uniform_grid(self, inferable: Any) -> None:
        pass


class TruncatedZeroPoint(UniformWeights):
    def _set_uniform_grid(self, inferable: Any) -> None:
        super()._set_uniform_grid(inferable)
        inferable.zero_points = (-inferable.min_range / inferable.scales).mul(0.999).int()


class FieldDropped(SymmetricWeights):
    @classmethod
    def from_config(cls, config):
        return super().from_config({"quantization_config": config["quantization_config"]})


class CachedThreshold(SymmetricWeights):
    def effective_range(self):
        if not hasattr(self, "cached"):
            self.cached = [end.detach() for end in super().effective_range()]
        return self.cached


class PromotedOutput(SymmetricActivation):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs.float(), training)


class ShiftedLevels(SymmetricActivation):
    def __call__(self, inputs, training=True):
        low, high = self.effective_range()
        step = range_step(TORCH_OPS, low, high, self.specification.grid)
        return super().__call__(inputs, training) + step.detach()


class UnguardedThreshold(SymmetricActivation):
    def effective_range(self):
        return symmetric_range(self.get_quantizer_variable("threshold"), self.specification.grid)


class UnorderedRange(UniformActivation):
    def effective_range(self):
        return self.get_quantizer_variable("min_range"), self.get_quantizer_variable("max_range")


class NeverDisabled(SymmetricWeights):
    def __init__(self, quantization_config: WEIGHTS, freeze_quant_params: bool = False):
        super().__init__(quantization_config, freeze_quant_params)
        self.enabled = True


class EverythingAccepted(SymmetricWeights):
    def __init__(self, quantization_config: WEIGHTS, freeze_quant_params: bool = False):
        try:
            super().__init__(quantization_config, freeze_quant_params)
        except QuantizerError:
            super().__init__(WEIGHTS(Method.SYMMETRIC, 4, {"threshold": 1.0}, True, 0, False))


class OffTheGrid(SymmetricActivation):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs, training) + 1e-3 * inputs.clamp(-1, 1)


class OtherwiseWhenCompiled(SymmetricActivation):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs * (1.5 if torch.compiler.is_compiling() else 1.0), training)


class OtherwiseInEvaluation(SymmetricActivation):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs if training else inputs * 1.5, training)


class CoarserStepForSums(SymmetricWeights):
    def step(self):
        return super().step() * 2


class LevelMoreThanFits(SymmetricWeights):
    def __call__(self, inputs, training=True):
        y = super().__call__(inputs, training)
        return y + (torch.sign(y) * self.step().reshape(-1, 1)).detach()


class RoundingErrorsLeftOut(SymmetricWeights):
    def __init__(self, quantization_config: WEIGHTS, freeze_quant_params: bool = False):
        super().__init__(quantization_config, freeze_quant_params)
        self.specification = replace(self.specification, ewgs=0.0)


class SlopeOfTheWrongBase(SymmetricWeights):
    """dt/dv = t, as if v were the natural logarithm."""

    def _current(self, name):
        variable = super()._current(name)
        return variable.detach() + (variable - variable.detach()) / math.log(2)


class ReadsTheLogarithm(SymmetricWeights):
    def read_variable(self, name):
        return self._read_variable(self._current(name))


POT_ACTIVATION = Case("LSQ", Target.Activation, Method.POWER_OF_TWO, 4)
UNSIGNED = Case("LSQ", Target.Activation, Method.SYMMETRIC, 4, signed=False)
UNIFORM_ACTIVATION = Case("LSQ", Target.Activation, Method.UNIFORM, 4)
SOFT_WEIGHT = Case("AdaRound", Target.Weights, Method.POWER_OF_TWO, 4, axis=1)
LEARNED_WIDTH = Case("DQA", Target.Weights, Method.UNIFORM, 4, axis=1)
POT_WEIGHT = Case("LSQ", Target.Weights, Method.POWER_OF_TWO, 4, axis=0)
WEIGHT = Case("LSQ", Target.Weights, Method.SYMMETRIC, 4, axis=1)
EWGS_WEIGHT = replace(WEIGHT, ewgs=0.3)
LOG2_WEIGHT = replace(WEIGHT, log2=True)
UNIFORM_WEIGHT = Case("LSQ", Target.Weights, Method.UNIFORM, 8, axis=0)


class IgnoresTheRule(SymmetricActivation):
    """Rounds ties as PyTorch does, whatever the configuration says."""

    rounding = None


class SoftWeights(tq.AdaRoundSymmetricWeightsTrainableQuantizer):
    pass


class RoundedBackAtConversion(SoftWeights):
    def deployed_weight(self, weight):
        return weight


class HardFromTheStart(SoftWeights):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs, False)


class LearnedWidth(tq.DQAUniformWeightsTrainableQuantizer):
    pass


class WithoutTemperature(LearnedWidth):
    def shares(self):
        return torch.softmax(self._attention(), 0)


class MixedInEvaluation(LearnedWidth):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs, True)


class WidthsGoOnLearning(LearnedWidth):
    def _current(self, name):
        return self.get_quantizer_variable(name)


class EveryMoveIsAnOscillation(SymmetricWeights):
    def follow(self, weight, steps=1):
        super().follow(weight, steps)
        moves = self.get_quantizer_variable("moves")
        moves.copy_(torch.where(moves % 2 == 1, moves + 1, moves))  # forgets directions, and freezes what moved


class FrozenAtTheLastLevel(SymmetricWeights):
    def follow(self, weight, steps=1):
        left = weight.detach().clone()
        super().follow(weight, steps)
        with torch.no_grad():
            weight.copy_(torch.where(weight == left, left, self(left, False)))


BROKEN = [
    (RoundingErrorsLeftOut, EWGS_WEIGHT, checks.check_gradient_to_input),
    (SlopeOfTheWrongBase, LOG2_WEIGHT, checks.check_gradient_to_parameters),
    (ReadsTheLogarithm, LOG2_WEIGHT, checks.check_log2_domain),
    (ReadsTheLogarithm, LOG2_WEIGHT, checks.check_train_is_deploy),
    (WithoutTemperature, LEARNED_WIDTH, checks.check_mixture),
    (MixedInEvaluation, LEARNED_WIDTH, checks.check_mixture),
    (WidthsGoOnLearning, LEARNED_WIDTH, checks.check_mixture),
    (EveryMoveIsAnOscillation, WEIGHT, checks.check_oscillations),
    (FrozenAtTheLastLevel, POT_WEIGHT, checks.check_oscillations),
    (RoundedBackAtConversion, SOFT_WEIGHT, checks.check_soft_rounding),
    (HardFromTheStart, SOFT_WEIGHT, checks.check_soft_rounding),
    (IgnoresTheRule, POT_ACTIVATION, checks.check_ties),
    (CoarserStepForSums, POT_WEIGHT, checks.check_bias),
    (CoarserStepForSums, POT_WEIGHT, checks.check_limit),
    (LevelMoreThanFits, POT_WEIGHT, checks.check_limit),
    (LeakingGradient, POT_ACTIVATION, checks.check_gradient_to_input),
    (MaskOnTheRoundedLevel, POT_ACTIVATION, checks.check_gradient_to_input),
    (WrongSignWhereSaturated, POT_ACTIVATION, checks.check_gradient_to_parameters),
    (OffByOneBound, UNSIGNED, checks.check_output),
    (OffByOneBound, UNSIGNED, checks.check_grid),
    (UnsignedAsSigned, UNSIGNED, checks.check_output),
    (PowerOfTwoAtConversionOnly, POT_ACTIVATION, checks.check_update_takes_effect),
    (PowerOfTwoAtConversionOnly, POT_ACTIVATION, checks.check_train_is_deploy),
    (MissingFactor, WEIGHT, checks.check_gradient_to_parameters),
    (FactorOfOneAxis, POT_ACTIVATION, checks.check_gradient_to_parameters),
    (MissingRoundingErrors, UNIFORM_WEIGHT, checks.check_gradient_to_parameters),
    (IgnoredChannelAxis, WEIGHT, checks.check_channel_axis),
    (HalvesRoundUp, POT_ACTIVATION, checks.check_train_is_deploy),
    (FrozenTrained, WEIGHT, checks.check_frozen),
    (SwappedAtExport, UNIFORM_WEIGHT, checks.check_train_is_deploy),
    (TruncatedZeroPoint, UNIFORM_WEIGHT, checks.check_train_is_deploy),
    (FieldDropped, WEIGHT, checks.check_config_round_trip),
    (CachedThreshold, WEIGHT, checks.check_reload_then_train),
    (CachedThreshold, WEIGHT, checks.check_update_takes_effect),
    (PromotedOutput, POT_ACTIVATION, checks.check_dtype_and_shape),
    (ShiftedLevels, POT_ACTIVATION, checks.check_idempotent),
    (OffTheGrid, POT_ACTIVATION, checks.check_grid),
    (UnguardedThreshold, UNSIGNED, checks.check_recovery),
    (UnorderedRange, UNIFORM_ACTIVATION, checks.check_range_order),
    (NeverDisabled, WEIGHT, checks.check_disabled),
    (EverythingAccepted, WEIGHT, checks.check_invalid_input),
    (OtherwiseWhenCompiled, POT_ACTIVATION, checks.check_compiled),
    (OtherwiseInEvaluation, POT_ACTIVATION, checks.check_output),
]
EAGER, *_ = load_adapters("trainable_quantizers_torch")


class Traced(TorchAdapter):
    """Compiled as far as the graph, without code: enough to find a fault."""

    def compile(self, function):
        return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")


@pytest.mark.parametrize(("broken", "case", "check"), BROKEN, ids=lambda part: getattr(part, "__name__", ""))
def test_fault_is_found_by_its_check(broken, case, check):
    adapter = Traced(compiled=True) if check is checks.check_compiled else EAGER
    check(adapter, broken.__mro__[1], case)
    with pytest.raises((AssertionError, RuntimeError)):
        check(adapter, broken, case)


def test_there_is_a_broken_quantizer_for_every_check():
    assert {check for _, _, check in BROKEN} == {*checks.EAGER_CHECKS, *checks.COMPILED_CHECKS}
