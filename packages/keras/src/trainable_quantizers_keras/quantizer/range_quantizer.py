"""The Keras part of the shipped quantizers: variables, gradients, inferable classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from mct_quantizers import QuantizationMethod, QuantizationTarget, keras_quantizers
from trainable_quantizers_core import THRESHOLD
from trainable_quantizers_core.constants import ALPHA, FLIP_RATE, HELD, MEAN_LEVEL, MOVES, STEP, UNIT
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.grid import range_step
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer
from trainable_quantizers_core.quantizer.schedule import LAST_STEP
from trainable_quantizers_core.quantizer.specification import elements_per_sample
from trainable_quantizers_core.quantizer.ties import beside_ties

from trainable_quantizers_keras.keras_version import add_float32_weight, full_precision, infers_shapes
from trainable_quantizers_keras.kernels.effective import TF_OPS, symmetric_range, uniform_range
from trainable_quantizers_keras.kernels.fake_quantize import fake_quantize
from trainable_quantizers_keras.kernels.soft_rounding import moved, soft_rounding
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


class KerasRangeQuantizer(RangeQuantizer, BaseKerasTrainableQuantizer):
    """A range quantizer whose ends are weights of a layer.

    Args:
        quantization_config: Bits, method and initial parameters.
        freeze_quant_params: Whether the parameters keep their initial values.
        schedule: When it quantizes and learns; None does both from the first step.
        oscillations: How flip rates are measured and oscillating weights frozen; None does neither.

    Raises:
        QuantizerError: the configuration leaves no grid, or does not fit the tensor.

    Examples:
        >>> from trainable_quantizers_keras import (
        ...     LSQSymmetricWeightsTrainableQuantizer, QuantizationMethod, TrainableQuantizerWeightsConfig)
        >>> method = QuantizationMethod.SYMMETRIC
        >>> config = TrainableQuantizerWeightsConfig(method, 2, {"threshold": 1.0}, True, 0, False)
        >>> quantizer = LSQSymmetricWeightsTrainableQuantizer(config)
        >>> quantizer.initialize_quantization((3, 1), "kernel", tf.keras.layers.Dense(1))
        >>> quantizer(tf.constant([0.3, -9.0, 9.0])).numpy().tolist()
        [0.5, -1.0, 0.5]
    """

    native_rounding = RoundingRule.HALF_UP
    place = ""
    """For the grids of biases in files: name of the layer that holds it; the path to that, if others have the name."""

    def initialize_quantization(self, tensor_shape: Any, name: str, layer: Any) -> None:
        """Create the variables on ``layer``.

        The holder of mct-quantizers puts the name of the layer into that of the variable, by which checkpoints know it:
        a model that was built later in a process would find nothing there.
        """
        if name == f"{layer.name}/out_":
            name = "out"
        super().initialize_quantization(tensor_shape, name, layer)
        self.place = layer.name

    def __call__(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """The quantized ``inputs``; the same in training and in evaluation, unless a schedule says otherwise.

        Raises:
            QuantizerError: ``inputs`` is not a floating tensor.
        """
        inputs = self._floating(inputs)
        if not self.enabled or infers_shapes():
            return inputs
        given = inputs
        if self.gradient.soft_rounding:
            inputs = tf.cast(inputs, tf.float32)
            inputs = moved(inputs, self.broadcast(self.step(), inputs), self._alpha())
        quantized = self._quantized(inputs if self.rounding is None else self._beside_ties(inputs, self.rounding))
        scheduled = self.schedule is not None and training is not None and training is not False
        if scheduled and self.gradient.soft_rounding:
            ends = (self.broadcast(end, inputs) for end in self.effective_range())
            soft = full_precision(self.get_quantizer_variable(STEP)) < self.schedule.full_from
            soft = tf.logical_and(soft, tf.cast(training, tf.bool))
            quantized = tf.where(soft, tf.clip_by_value(inputs, *ends), quantized)
        quantized = tf.cast(quantized, given.dtype)
        if not scheduled or self.gradient.soft_rounding:
            return quantized
        return self.blended(inputs, quantized, training)

    def _floating(self, inputs: Any) -> tf.Tensor:
        inputs = tf.convert_to_tensor(inputs)
        if not inputs.dtype.is_floating:
            advice = "convert it with tf.cast"
            raise invalid(type(self).__name__, "inputs", "a floating tensor", inputs.dtype.name, advice)
        return inputs

    def _quantized(self, inputs: tf.Tensor) -> tf.Tensor:
        low, high = self.effective_range()
        scale = self._lsq_factor(inputs) if self.gradient.scaled else 1.0
        grid, from_rounding = self.specification.grid, self.gradient.from_rounding
        ewgs = self.specification.ewgs
        return fake_quantize(inputs, low, high, grid, self.channel_axis, from_rounding, scale, ewgs)

    def rounding_of(self, weight: tf.Tensor) -> tf.Tensor:
        """The soft rounding h of each element of a weight, from 0 for the level below to 1 for the one above."""
        weight = full_precision(weight)
        return soft_rounding(weight, self.broadcast(self.step(), weight), self._alpha())

    def rounding_regularizer(self, weight: tf.Tensor) -> tf.Tensor:
        """Σ (1 - |2h - 1|^β) while the schedule ramps, else 0."""
        step = full_precision(self.get_quantizer_variable(STEP))
        power = self.schedule.rounding_power(TF_OPS, step)
        pulls = tf.logical_and(step >= self.schedule.start, step < self.schedule.full_from)
        return tf.where(pulls, tf.reduce_sum(1 - tf.abs(2 * self.rounding_of(weight) - 1) ** power), 0.0)

    def _alpha(self) -> tf.Tensor:
        return full_precision(self.get_quantizer_variable(ALPHA))

    def broadcast(self, parameter: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """A parameter of shape () or (channels,), such as Δ, in a shape that broadcasts against ``x``."""
        if self.channel_axis is None:
            return parameter
        return tf.reshape(parameter, [-1 if axis == self.channel_axis else 1 for axis in range(x.shape.rank)])

    def _beside_ties(self, inputs: tf.Tensor, rule: RoundingRule) -> tf.Tensor:
        wide = tf.cast(inputs, tf.float32) if inputs.dtype.size < tf.float32.size else inputs
        step = tf.cast(self.step(), wide.dtype)
        return beside_ties(TF_OPS, wide, step, self.specification.grid.num_bits, rule)

    def effective_range(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(min, max) that the forward uses, differentiable with respect to the variables."""
        spec = self.specification
        variables = [self._learned(name) for name in spec.initial]
        if spec.method is QuantizationMethod.UNIFORM:
            low, high = variables
            return uniform_range(low, high, spec.grid, spec.min_threshold)
        (threshold,) = variables
        return symmetric_range(threshold, spec.grid, spec.min_threshold, spec.power_of_two, spec.log2)

    def _learned(self, name: str) -> tf.Tensor:
        variable = full_precision(self._current(name))
        return tf.stop_gradient(variable) if self.freeze_quant_params else variable

    def step(self) -> tf.Tensor:
        """Δ that the forward uses, of shape () or (channels,); nothing learns through it."""
        low, high = self.effective_range()
        return tf.stop_gradient(range_step(TF_OPS, low, high, self.specification.grid))

    def advance(self, steps: Any = 1) -> None:
        """Report ``steps`` more steps of the optimizer: a number, or a tensor."""
        if STEP not in self.quantizer_parameters:
            return
        for name in self._held:
            value = tf.identity(self._current(name))
            self.get_quantizer_variable(f"{name}_{HELD}").assign(value)
            self.get_quantizer_variable(name).assign(value)
        step = self.get_quantizer_variable(STEP)
        step.assign(tf.minimum(full_precision(step) + tf.cast(steps, tf.float32), LAST_STEP))

    def follow(self, weight: Any, steps: Any = 1) -> None:
        """Update flip rates after a step of the optimizer; freeze elements that oscillate on their level."""
        rule = self.oscillations
        if rule is None or not self.quantizer_parameters:
            return
        values = tf.cast(full_precision(weight), tf.float32)
        unit = self.broadcast(self.step(), values)
        state = {name: full_precision(self.get_quantizer_variable(name)) for name in (MOVES, MEAN_LEVEL, FLIP_RATE)}
        if UNIT in self.quantizer_parameters:
            state[UNIT] = self.broadcast(full_precision(self.get_quantizer_variable(UNIT)), values)
        level = tf.round(self(values, False) / unit)
        step = full_precision(self.get_quantizer_variable(STEP))
        kept, found = rule.followed(TF_OPS, values, level, unit, state, step, tf.convert_to_tensor(steps) > 0)
        if UNIT in state:
            found[UNIT] = self.step()
        for name, value in found.items():
            self.get_quantizer_variable(name).assign(value)
        if rule.freezes:
            weight.assign(tf.cast(kept, weight.dtype))

    def oscillation_damping(self, weight: Any) -> tf.Tensor:
        """Σ (y - clip(x, min', max'))² of a weight x, quantized to y; its gradient goes to x alone."""
        values = tf.cast(full_precision(weight), tf.float32)
        quantized = tf.stop_gradient(self(values, False))
        ends = (tf.stop_gradient(self.broadcast(end, values)) for end in self.effective_range())
        return tf.reduce_sum(tf.square(quantized - tf.clip_by_value(values, *ends)))

    def blended(self, inputs: tf.Tensor, quantized: tf.Tensor, training: Any) -> tf.Tensor:
        """The mixture of a tensor and its quantized values that the schedule asks for, in training or not."""
        share = self.schedule.share(TF_OPS, full_precision(self.get_quantizer_variable(STEP)))
        share = tf.where(tf.cast(training, tf.bool), share, 1.0)
        weight = tf.cast(share, inputs.dtype)
        return tf.cond(share < 1.0, lambda: inputs + weight * (quantized - inputs), lambda: quantized)

    def _where(self, condition: tf.Tensor, one: Any, other: Any) -> tf.Tensor:
        return tf.where(condition, full_precision(one), full_precision(other))

    def _lsq_factor(self, inputs: tf.Tensor) -> float | tf.Tensor:
        spec, shape = self.specification, inputs.shape
        if type(self).quantization_target is QuantizationTarget.Weights:
            sharing = (
                shape if self.channel_axis is None else [*shape[: self.channel_axis], *shape[self.channel_axis + 1 :]]
            )
            return spec.lsq_factor(int(np.prod(sharing)))
        if shape[1:].is_fully_defined():
            return spec.lsq_factor(elements_per_sample(shape))
        shared_by = tf.cast(tf.reduce_prod(tf.shape(inputs)[1:]), tf.float32)
        return tf.math.rsqrt(tf.maximum(shared_by, 1.0) * spec.grid.highest)

    def _create_variable(self, layer: Any, name: str, value: np.ndarray, trainable: bool) -> Any:
        return add_float32_weight(layer, name, value, trainable)

    def _read_variable(self, variable: Any) -> np.ndarray:
        return variable.numpy()

    def _write_variable(self, variable: Any, value: np.ndarray) -> None:
        variable.assign(value)

    def _create_inferable(self, class_name: str, values: dict[str, np.ndarray], target: QuantizationTarget) -> Any:
        spec = self.specification
        arguments = spec.inferable_arguments(values, from_step=False)
        if target is QuantizationTarget.Weights:
            per_channel = self.channel_axis is not None
            arguments.update(per_channel=per_channel, channel_axis=self.channel_axis, input_rank=self._rank)
        elif THRESHOLD in arguments:
            arguments.update(signed=spec.grid.signed)
        return getattr(keras_quantizers, class_name)(**arguments)
