"""The PyTorch part of the shipped quantizers: parameters, autograd, inferable classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mct_quantizers import QuantizationMethod, QuantizationTarget, pytorch_quantizers
from trainable_quantizers_core import THRESHOLD
from trainable_quantizers_core.constants import ALPHA, FLIP_RATE, HELD, LUT_VALUES, MEAN_LEVEL, MOVES, STEP, UNIT
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.array_ops import NUMBER_OPS
from trainable_quantizers_core.quantizer.grid import range_step, range_zero_point, symmetric_step, uniform_step
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.schedule import LAST_STEP
from trainable_quantizers_core.quantizer.specification import elements_per_sample
from trainable_quantizers_core.quantizer.ties import beside_ties

from trainable_quantizers_torch.kernels.effective import TORCH_OPS, follow, symmetric_range, uniform_range
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.kernels.operator import on_cpu
from trainable_quantizers_torch.kernels.soft_rounding import moved, soft_rounding
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer, put, whole


class PytorchRangeQuantizer(RangeQuantizer, BasePytorchTrainableQuantizer):
    """A range quantizer whose ends are parameters of a module.

    Args:
        quantization_config: Bits, method and initial parameters.
        freeze_quant_params: Whether the parameters keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: How flip rates are measured and oscillating weights frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Examples:
        >>> from trainable_quantizers_torch import (
        ...     LSQSymmetricWeightsTrainableQuantizer, QuantizationMethod, TrainableQuantizerWeightsConfig)
        >>> method = QuantizationMethod.SYMMETRIC
        >>> config = TrainableQuantizerWeightsConfig(method, 2, {"threshold": 1.0}, True, 0, False)
        >>> quantizer, layer = LSQSymmetricWeightsTrainableQuantizer(config), torch.nn.Linear(3, 1)
        >>> quantizer.initialize_quantization(layer.weight.shape, "weight", layer)
        >>> quantizer(torch.tensor([0.3, -9.0, 9.0])).tolist()
        [0.5, -1.0, 0.5]
    """

    native_rounding = RoundingRule.HALF_EVEN

    def initialize_quantization(self, tensor_shape: Any, name: str, layer: torch.nn.Module) -> None:
        """Create the variables on ``layer``, on the device of its parameters."""
        super().initialize_quantization(tensor_shape, name, layer)
        self.bind(layer)

    def __call__(self, inputs: torch.Tensor, training: bool = True) -> torch.Tensor:
        """The quantized ``inputs``; the same in training and in evaluation, unless a schedule says otherwise.

        Raises:
            QuantizerError: ``inputs`` is not a floating tensor, or a sparse or nested one.
        """
        self._check_inputs(inputs)
        if not self.enabled:
            return inputs
        given = inputs
        if self.gradient.soft_rounding:
            inputs = moved(inputs.float(), self.broadcast(self.step(), inputs), self._alpha())
        quantized = self._quantized(inputs if self.rounding is None else self._beside_ties(inputs, self.rounding))
        if self.schedule is not None and training and self.gradient.soft_rounding:
            ends = (self.broadcast(end, inputs) for end in self.effective_range())
            soft = self.get_quantizer_variable(STEP) < self.schedule.full_from
            quantized = torch.where(soft, torch.clamp(inputs, *ends), quantized)
        quantized = quantized.to(given.dtype)
        if self.schedule is None or not training or self.gradient.soft_rounding:
            return quantized
        return self.blended(inputs, quantized)

    def _check_inputs(self, inputs: Any) -> None:
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
            found = inputs.dtype if isinstance(inputs, torch.Tensor) else type(inputs).__name__
            raise invalid(type(self).__name__, "inputs", "a floating tensor", found, "convert it with .float()")
        if inputs.layout is not torch.strided or inputs.is_nested:
            found = "a nested one" if inputs.is_nested else inputs.layout
            advice = "convert it with .to_dense(), or .to_padded_tensor(0.0) if it is nested"
            raise invalid(type(self).__name__, "inputs", "a dense tensor", found, advice)

    def _check_channels(self, inputs: torch.Tensor, parameter: torch.Tensor) -> None:
        """Refuse a weight whose shape changed after its quantizer was made."""
        axis = self.channel_axis
        if axis is not None and (axis >= inputs.ndim or inputs.shape[axis] != parameter.numel()):
            rule, advice = (
                f"a tensor of {parameter.numel()} channels on axis {axis}",
                "change the float model, and prepare it",
            )
            raise invalid(type(self).__name__, "inputs", rule, tuple(inputs.shape), advice)

    def _quantized(self, inputs: torch.Tensor) -> torch.Tensor:
        low, high = self.effective_range()
        self._check_channels(inputs, low)
        spec, from_rounding = self.specification, self.gradient.from_rounding
        scale = spec.lsq_factor(self._shared_by(inputs)) if self.gradient.scaled else 1.0
        return fake_quantize(inputs, low, high, spec.grid, self.channel_axis, from_rounding, scale, self._ewgs())

    def rounding_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The soft rounding h of each element of a weight, from 0 for the level below to 1 for the one above."""
        return soft_rounding(weight.float(), self.broadcast(self.step(), weight), self._alpha())

    def rounding_regularizer(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ (1 - |2h - 1|^β) while the schedule ramps, else 0."""
        step = self.get_quantizer_variable(STEP)
        power = self.schedule.rounding_power(TORCH_OPS, step)
        pulls = (step >= self.schedule.start) & (step < self.schedule.full_from)
        return torch.where(pulls, (1 - (2 * self.rounding_of(weight) - 1).abs() ** power).sum(), 0.0)

    def _alpha(self) -> torch.Tensor:
        return whole(self.get_quantizer_variable(ALPHA)).float()

    def broadcast(self, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A parameter of shape () or (channels,), such as Δ, in a shape that broadcasts against ``x``."""
        if self.channel_axis is None:
            return parameter
        return parameter.reshape([-1 if axis == self.channel_axis else 1 for axis in range(x.ndim)])

    def _beside_ties(self, inputs: torch.Tensor, rule: RoundingRule) -> torch.Tensor:
        wide = inputs.float() if inputs.dtype.itemsize < torch.float32.itemsize else inputs
        return beside_ties(TORCH_OPS, wide, self.step(), self.specification.grid.num_bits, rule)

    @torch.compiler.assume_constant_result
    def _threshold_rule(self) -> tuple[float, bool, bool]:
        """(min_threshold, power_of_two, log2).

        Numbers for the compiler too, which makes variables of the numbers of a model if sizes are dynamic; as is
        ``ewgs``. Methods, because that of PyTorch 2.9 hands no dataclass to a function whose result is constant.
        """
        spec = self.specification
        return spec.min_threshold, spec.power_of_two, spec.log2

    @torch.compiler.assume_constant_result
    def _ewgs(self) -> float:
        return self.specification.ewgs

    def effective_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(min, max) that the forward uses, differentiable with respect to the variables."""
        spec = self.specification
        variables = [self.shaped(whole(self._current(name))) for name in spec.initial]
        if spec.method is QuantizationMethod.UNIFORM:
            low, high = variables
            return uniform_range(low, high, spec.grid, self._threshold_rule()[0])
        (threshold,) = variables
        return symmetric_range(threshold, spec.grid, *self._threshold_rule())

    def shaped(self, variable: torch.Tensor) -> torch.Tensor:
        """A variable in its shape for use: per-tensor ones are stored with one axis, because FSDP shards no scalars."""
        return variable.reshape(()) if self.channel_axis is None and variable.numel() == 1 else variable

    def step(self) -> torch.Tensor:
        """Δ that the forward uses, of shape () or (channels,); nothing learns through it."""
        spec = self.specification
        variables = tuple(self.shaped(whole(self._current(name).detach())).float() for name in spec.initial)
        if spec.method is QuantizationMethod.UNIFORM:
            return follow(uniform_step, variables, spec.grid, self._threshold_rule()[0])  # type: ignore[no-any-return]
        return follow(symmetric_step, variables, spec.grid, *self._threshold_rule())  # type: ignore[no-any-return]

    @torch.no_grad()
    def advance(self, steps: int | torch.Tensor = 1) -> None:
        """Report ``steps`` more steps of the optimizer: a number, or a tensor."""
        if STEP not in self.quantizer_parameters:
            return
        for name in self._held:
            value = self._current(name)
            self.get_quantizer_variable(f"{name}_{HELD}").copy_(value)
            put(self.get_quantizer_variable(name), value)
        self.get_quantizer_variable(STEP).add_(steps).clamp_(max=LAST_STEP)

    @torch.no_grad()
    def follow(self, weight: torch.Tensor, steps: int | torch.Tensor = 1) -> None:
        """Update flip rates after a step of the optimizer; freeze elements that oscillate on their level.

        Raises:
            QuantizerError: only a part of the weight is here.
        """
        rule = self.oscillations
        if rule is None or not self.quantizer_parameters:
            return
        values = whole(weight).float()
        state = {name: self.get_quantizer_variable(name) for name in (MOVES, MEAN_LEVEL, FLIP_RATE)}
        if values.shape != state[MOVES].shape:
            advice = "shard the model with fully_shard, which gives weights back whole"
            raise invalid(type(self).__name__, "weight", f"of shape {tuple(state[MOVES].shape)}", values.shape, advice)
        unit = self.broadcast(self.step(), values)
        state = {name: variable.float() for name, variable in state.items()}
        if UNIT in self.quantizer_parameters:
            state[UNIT] = self.broadcast(self.shaped(self.get_quantizer_variable(UNIT)).float(), values)
        level = torch.round(self(values, False) / unit)
        step, made = self.get_quantizer_variable(STEP), torch.as_tensor(steps) > 0
        kept, found = rule.followed(TORCH_OPS, values, level, unit, state, step, made)
        if UNIT in state:
            found[UNIT] = unit
        for name, value in found.items():
            variable = self.get_quantizer_variable(name)
            variable.copy_(value.reshape(variable.shape))
        if rule.freezes:
            put(weight, kept)

    def oscillation_damping(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ (y - clip(x, min', max'))² of a weight x, quantized to y; its gradient goes to x alone."""
        values = whole(weight).float()
        with torch.no_grad():
            quantized = self(values, False)
            ends = [self.broadcast(end, values) for end in self.effective_range()]
        return (quantized - torch.clamp(values, *ends)).square().sum()

    def blended(self, inputs: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """The mixture of a tensor and its quantized values that the schedule asks for in training."""
        step = self.get_quantizer_variable(STEP)
        if on_cpu(step) and self.schedule.share(NUMBER_OPS, step.item()) == 1:
            return quantized
        share = self.schedule.share(TORCH_OPS, step)
        return torch.where(share < 1, inputs + share.to(inputs.dtype) * (quantized - inputs), quantized)

    def _where(self, condition: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(condition, whole(one), other)

    def _shared_by(self, inputs: torch.Tensor) -> int:
        if type(self).quantization_target is QuantizationTarget.Activation:
            return elements_per_sample(inputs.shape)
        return (
            inputs.numel() if self.channel_axis is None else inputs.numel() // max(inputs.shape[self.channel_axis], 1)
        )

    def _create_variable(self, layer: torch.nn.Module, name: str, value: np.ndarray, trainable: bool) -> torch.Tensor:
        device = next((parameter.device for parameter in layer.parameters()), None)
        tensor = torch.tensor(value, device=device)
        if tensor.is_floating_point() and not tensor.ndim:
            tensor = tensor.reshape(1)
        if trainable:
            layer.register_parameter(name, torch.nn.Parameter(tensor))
        else:  # a buffer, which requires_grad_(True) on the model does not unfreeze
            layer.register_buffer(name, tensor)
        return getattr(layer, name)

    def _read_variable(self, variable: torch.Tensor) -> np.ndarray:
        return self.shaped(whole(variable.detach())).float().cpu().numpy()

    @torch.no_grad()
    def _write_variable(self, variable: torch.Tensor, value: np.ndarray) -> None:
        put(variable, torch.from_numpy(np.array(value)).reshape(variable.shape))

    def _create_inferable(self, class_name: str, values: dict[str, np.ndarray], target: QuantizationTarget) -> Any:
        spec = self.specification
        arguments = spec.inferable_arguments(values, from_step=True)
        if target is QuantizationTarget.Weights:
            arguments.update(per_channel=self.channel_axis is not None, channel_axis=self.channel_axis)
            if LUT_VALUES in arguments:
                arguments.update(input_rank=self._rank)
        elif THRESHOLD in arguments:
            arguments.update(signed=spec.grid.signed)
        inferable = getattr(pytorch_quantizers, class_name)(**arguments)
        device = self.get_quantizer_variable(next(iter(values))).device
        for name, value in vars(inferable).items():  # mct-quantizers puts them on a GPU if there is one
            if isinstance(value, torch.Tensor):
                setattr(inferable, name, value.to(device))
        if spec.method is QuantizationMethod.UNIFORM:
            self._set_uniform_grid(inferable)
        return inferable

    @torch.no_grad()
    def _set_uniform_grid(self, inferable: Any) -> None:
        """Give the inferable the trained step and zero point.

        It derives both from the range once more, in float32: some steps (2-5 %) it cannot arrive at from any
        range, and the zero points of weights it truncates.
        """
        min_range, max_range = self.effective_range()
        step = range_step(TORCH_OPS, min_range, max_range, self.specification.grid)
        zero_point = range_zero_point(TORCH_OPS, min_range, step, self.specification.grid)
        if hasattr(inferable, "scales"):
            inferable.scales = step.reshape(inferable.scales.shape)
            inferable.zero_points = zero_point.to(torch.int32).reshape(inferable.zero_points.shape)
        else:
            inferable.scale, inferable.zero_point = step.item(), int(zero_point.item())
