"""The life cycle of the shipped quantizers, the same in every framework."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from mct_quantizers import BaseInferableQuantizer, QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.constants import ALPHA, HELD, LUT_VALUES, SIGNED, STEP, TABLED, THRESHOLD
from trainable_quantizers_core.enums import RoundingRule, VariableGroup
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.config import RangeConfig
from trainable_quantizers_core.quantizer.gradient_rule import STE, GradientRule
from trainable_quantizers_core.quantizer.oscillations import Oscillations
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule
from trainable_quantizers_core.quantizer.specification import RangeSpecification
from trainable_quantizers_core.quantizer.table import table_grid

_METHOD_IN_CLASS_NAME = {
    QuantizationMethod.POWER_OF_TWO: "POT",
    QuantizationMethod.SYMMETRIC: "Symmetric",
    QuantizationMethod.UNIFORM: "Uniform",
    QuantizationMethod.LUT_SYM_QUANTIZER: "LUTSymmetric",
    QuantizationMethod.LUT_POT_QUANTIZER: "LUTPOT",
}


class RangeQuantizer(BaseTrainableQuantizer):
    """A quantizer whose parameters are the ends of a range; a framework adds tensors, a leaf class its ``gradient``."""

    gradient: ClassVar[GradientRule] = STE
    native_rounding: ClassVar[RoundingRule]
    """How the framework rounds ties, in training and in the inferable quantizers."""

    def __init__(
        self,
        quantization_config: RangeConfig,
        freeze_quant_params: bool = False,
        schedule: QuantizationSchedule | None = None,
        oscillations: Oscillations | None = None,
    ) -> None:
        super().__init__(quantization_config, freeze_quant_params)
        if not isinstance(schedule, QuantizationSchedule | None):
            advice = "write QuantizationSchedule(start=..., ramp=...)"
            raise invalid(type(self).__name__, "schedule", "a QuantizationSchedule", schedule, advice)
        self.schedule = schedule
        self.oscillations = oscillations
        self._check_oscillations()
        self.enabled = quantization_config.enabled
        self.channel_axis: int | None = None
        self._rank: int | None = None
        self._configure(quantization_config)

    def _configure(self, config: RangeConfig) -> None:
        """Apply a configuration; there are no variables yet, or their state is about to be loaded."""
        self.quantization_config = config
        self.specification = RangeSpecification.from_config(type(self).__name__, config)
        if self.gradient.soft_rounding and self.specification.ewgs:
            advice = "weights that are not rounded in training have no rounding error"
            raise invalid(type(self).__name__, "ewgs", "0 with soft rounding", self.specification.ewgs, advice)

    def __repr__(self) -> str:
        spec = self.specification
        sign = "" if spec.method is QuantizationMethod.UNIFORM else ", signed" if spec.grid.signed else ", unsigned"
        channels = "" if spec.channel_axis is None else f", channels on axis {spec.channel_axis}"
        state = ("" if self.enabled else ", disabled") + (", frozen" if self.freeze_quant_params else "")
        state += "" if self.schedule is None else f", {self.schedule}"
        state += "" if self.oscillations is None else f", {self.oscillations}"
        state += "" if self.rounding is None else f", ties {self.rounding.value}"
        state += (", log2 threshold" if spec.log2 else "") + (f", ewgs {spec.ewgs:g}" if spec.ewgs else "")
        return f"{type(self).__name__}({spec.method.name}, {spec.grid.num_bits} bits{sign}{channels}{state})"

    @property
    def rounding(self) -> RoundingRule | None:
        """The rule for ties if it is not that of the framework, else None."""
        rule = self.specification.rounding
        return None if rule is self.native_rounding else rule

    def _check_oscillations(self) -> None:
        if self.oscillations is None:
            return
        owner, config = type(self).__name__, self.quantization_config
        if not isinstance(self.oscillations, Oscillations):
            advice = "write Oscillations(freeze_above=...)"
            raise invalid(owner, "oscillations", "an instance of Oscillations", self.oscillations, advice)
        tabled = config.quantization_method in TABLED  # type: ignore[attr-defined]
        if not self.weights_quantization() or self.gradient.soft_rounding or tabled:
            rule = "None except for weights of evenly spaced levels that are rounded to the nearest"
            advice = "leave them out for activations, look-up tables and AdaRound"
            raise invalid(owner, "oscillations", rule, self.oscillations, advice)

    @property
    def structure(self) -> dict[str, Any]:
        """The part of its state beside the variables: these have another meaning on another grid."""
        spec = self.specification
        return {
            "method": spec.method.name,
            "num_bits": spec.grid.num_bits,
            "signed": spec.grid.signed,
            "channel_axis": self.channel_axis,
            "threshold_domain": spec.threshold_domain.value,
            "oscillations": self.oscillations is not None,
        }

    def adopt_sign(self, signed: bool) -> None:
        """Turn into a quantizer of activations with or without levels below zero, as calibration could have decided."""
        config: Any = self.quantization_config
        params = {**config.activation_quantization_params, SIGNED: signed}
        if LUT_VALUES in params:  # the loaded state has its own
            grid = table_grid(signed)
            params[LUT_VALUES] = np.clip(params[LUT_VALUES], grid.lowest, grid.highest)
        self._configure(replace(config, activation_quantization_params=params))

    def start_at(self, threshold: np.ndarray | float) -> None:
        """Start from another threshold of a weight; only before variables are created."""
        config: Any = self.quantization_config
        params = {**config.weights_quantization_params, THRESHOLD: threshold}
        self._configure(replace(config, weights_quantization_params=params))

    @property
    def _held(self) -> tuple[str, ...]:
        """Names of the variables that have a copy, which keeps their value while they do not learn."""
        holds = self.schedule is not None and self.schedule.holds and not self.freeze_quant_params
        return tuple(self.specification.initial) if holds else ()

    def _learns(self) -> Any:
        """Whether these learn at the current step."""
        schedule: Any = self.schedule
        return schedule.learns(self.get_quantizer_variable(STEP))

    def initialize_quantization(self, tensor_shape: Any, name: str, layer: Any) -> None:
        """Create the threshold and table, or the ends of the range, as float32 variables of ``layer``.

        Raises:
            QuantizerError: the channel axis, or the number of values, does not fit the tensor; or the quantizer
                has variables already.
        """
        if not self.enabled:
            return
        if self.quantizer_parameters:
            advice = "build one for each layer (from_config(get_config()) makes a fresh one)"
            raise invalid(type(self).__name__, "quantizer", "of one layer", list(self.quantizer_parameters), advice)
        shape = None if tensor_shape is None else tuple(tensor_shape)
        spec = self.specification
        values = {each: spec.variable(each, value) for each, value in spec.initial_values(shape).items()}
        if shape is not None:
            self._rank = len(shape)
            self.channel_axis = None if spec.channel_axis is None else spec.channel_axis % len(shape)
        self._create_variables(layer, name, values, not self.freeze_quant_params)
        if self.oscillations is not None:
            unit = values[THRESHOLD] if spec.power_of_two else None
            for variable, value in self.oscillations.variables(shape or (), unit).items():
                created = self._create_variable(layer, f"{name}_{variable}", value, False)
                self.add_quantizer_variable(variable, created, VariableGroup.QPARAMS)
        if self.gradient.soft_rounding:
            alpha = self._create_variable(layer, f"{name}_{ALPHA}", np.zeros(shape or (), np.float32), True)
            self.add_quantizer_variable(ALPHA, alpha, VariableGroup.WEIGHTS)

    def _create_variables(self, layer: Any, name: str, values: dict[str, np.ndarray], trainable: bool) -> None:
        """Create the variables with these values, their copies, and the count of steps."""
        kept = {f"{variable}_{HELD}": values[variable] for variable in self._held}
        counted = {STEP: np.zeros((), np.int64)} if self.counts_steps else {}
        for variable, value in {**values, **kept, **counted}.items():
            created = self._create_variable(layer, f"{name}_{variable}", value, trainable and variable in values)
            self.add_quantizer_variable(variable, created, VariableGroup.QPARAMS)

    def convert2inferable(self) -> BaseInferableQuantizer:
        """The inferable quantizer of mct-quantizers with the same outputs, bit for bit.

        Raises:
            QuantizerError: the quantizer has no variables yet, or its configuration disables it.
        """
        if not self.enabled:
            advice = "there is nothing to convert; a wrapper or holder leaves such a tensor in float"
            raise invalid(type(self).__name__, "quantization", "enabled", False, advice)
        if self.schedule is not None and self.read_variable(STEP) < self.schedule.full_from:
            step = int(self.read_variable(STEP))
            text = f"{type(self).__name__}: converted at step {step}, but its schedule quantizes fully only from step"
            advice = "if training was longer, the schedule was not advanced: see advance_schedules"
            warnings.warn(f"{text} {self.schedule.full_from}; {advice}.", stacklevel=2)
        if self.rounding is not None:
            text = f"convert: ties are rounded {self.rounding.value} in training, and {self.native_rounding.value}"
            advice = f"to_integer(deployed, example, rounding={self.rounding.value!r}) keeps the rule"
            warnings.warn(f"{text} by the quantizers of mct-quantizers; {advice}.", stacklevel=2)
        return self._inferable()

    def _inferable(self) -> Any:
        values = {name: self.read_variable(name) for name in self.specification.initial}
        target = type(self).quantization_target
        name = _METHOD_IN_CLASS_NAME[self.specification.method]
        name = f"Weights{name}" if target is QuantizationTarget.Weights else f"Activation{name.replace('LUT', 'Lut')}"
        return self._create_inferable(f"{name}InferableQuantizer", values, target)

    def read_variable(self, name: str) -> np.ndarray:
        """The value of a variable that the next call uses, as float32: of a threshold t itself, in the log2 domain too.

        Raises:
            QuantizerError: there is no such variable (yet).
        """
        return self.specification.parameter(name, np.asarray(self._read_variable(self._current(name)), np.float32))

    def write_variable(self, name: str, value: np.ndarray) -> None:
        """Give a variable a value of its shape: a threshold t itself, in the log2 domain too.

        Raises:
            QuantizerError: there is no such variable (yet).
        """
        value = self.specification.variable(name, value)
        for written in (name, f"{name}_{HELD}"):
            if written == name or written in self.quantizer_parameters:
                self._write_variable(self.get_quantizer_variable(written), value)

    def _current(self, name: str) -> Any:
        """The variable itself, or the copy that keeps its value at the steps that it does not learn."""
        variable = self.get_quantizer_variable(name)
        if name not in self._held:
            return variable
        return self._where(self._learns(), variable, self.get_quantizer_variable(f"{name}_{HELD}"))

    def deployed_weight(self, weight: Any) -> Any:
        """The weight, or, if its rounding is learned, the value of its level."""
        return self(weight, False) if self.gradient.soft_rounding and self.enabled else weight

    @abstractmethod
    def step(self) -> Any:
        """Δ that the forward uses, a tensor of shape () or (channels,)."""

    @abstractmethod
    def _where(self, condition: Any, one: Any, other: Any) -> Any:
        """One of two variables."""

    @abstractmethod
    def _create_variable(self, layer: Any, name: str, value: np.ndarray, trainable: bool) -> Any:
        """A float32 variable of ``layer``."""

    @abstractmethod
    def _read_variable(self, variable: Any) -> np.ndarray:
        """The current value."""

    @abstractmethod
    def _write_variable(self, variable: Any, value: np.ndarray) -> None:
        """Set another value."""

    @abstractmethod
    def _create_inferable(self, class_name: str, values: dict[str, np.ndarray], target: QuantizationTarget) -> Any:
        """The framework's inferable quantizer of that name."""
