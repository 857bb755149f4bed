"""Schemes for weights and activations: the sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from mct_quantizers import QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.constants import MIN_THRESHOLD, TABLED
from trainable_quantizers_core.enums import (
    BiasGrid,
    CalibrationMethod,
    Granularity,
    RoundingRule,
    ThresholdDomain,
    TrainingMethod,
)
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.base_quantizer import constructor_parameters
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.grid import MIN_BITS
from trainable_quantizers_core.quantizer.oscillations import Oscillations
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule
from trainable_quantizers_core.quantizer.table import MAX_TABLE_BITS
from trainable_quantizers_core.recipe.fields import read_fields

_UNLIMITED = {
    TrainingMethod.ADAROUND: "reconstruct first, and train with another method: learned rounding has no limit",
    TrainingMethod.DQA: "learn the widths first, and train by learned_recipe: the mixture has no limit",
}
"""Training methods whose weights no accumulator limits."""

AnyScheme = TypeVar("AnyScheme", bound="_Scheme")


@dataclass(frozen=True)
class _Scheme:
    method: QuantizationMethod = QuantizationMethod.POWER_OF_TWO
    num_bits: int = 8
    training_method: TrainingMethod | str = TrainingMethod.LSQ
    calibration: CalibrationMethod = CalibrationMethod.MSE
    percentile: float = 99.99
    freeze: bool = False
    schedule: QuantizationSchedule | None = None
    threshold_domain: ThresholdDomain = ThresholdDomain.LINEAR
    ewgs: float = 0.0
    target: ClassVar[QuantizationTarget]

    def __post_init__(self) -> None:
        for name, value in read_fields(type(self), vars(self)).items():
            object.__setattr__(self, name, value)
        if self.method in TABLED and self.num_bits > MAX_TABLE_BITS:
            advice = "give it fewer bits, or choose a method of evenly spaced levels"
            rule = f"in {MIN_BITS}..{MAX_TABLE_BITS} for a look-up table"
            raise invalid(type(self).__name__, "num_bits", rule, self.num_bits, advice)
        if self.threshold_domain is ThresholdDomain.LOG2 and self.method is QuantizationMethod.UNIFORM:
            advice = "leave it out, or choose another method: a uniform range has two ends and no threshold"
            raise invalid(type(self).__name__, "threshold_domain", "linear with method uniform", "log2", advice)
        if self.ewgs and (self.method in TABLED or self.training_method is TrainingMethod.ADAROUND):
            advice = "leave it out: they have no rounding error that is counted in steps"
            raise invalid(type(self).__name__, "ewgs", "0 with look-up tables and AdaRound", self.ewgs, advice)

    @property
    def _gradient_rules(self) -> dict[str, Any]:
        return {"threshold_domain": self.threshold_domain, "ewgs": self.ewgs}

    def quantizer(self, config: Any, base: Any) -> Any:
        """The quantizer of the framework whose base class is ``base``.

        Raises:
            QuantizerError: none is known for the method and the training method, or it lacks an option.
        """
        quantizer_class = get_trainable_quantizer_class(self.target, self.training_method, self.method, base)
        given = {"freeze_quant_params": self.freeze or None, "schedule": self.schedule}
        given |= {"oscillations": getattr(self, "oscillations", None)}
        options = {name: value for name, value in given.items() if value is not None}
        known = constructor_parameters(quantizer_class)
        for name, value in options.items():
            if name not in known:
                advice = "leave it out of the recipe, or give the quantizer this argument"
                raise invalid(quantizer_class.__name__, name, "left at its default", value, advice)
        return quantizer_class(config, **options)


@dataclass(frozen=True)
class WeightsScheme(_Scheme):
    """How weights are quantized. Enumeration members may be given as strings, in any case, as in a file.

    Args:
        method: ``POWER_OF_TWO``, ``SYMMETRIC``, ``UNIFORM``, or for a learned look-up table ``LUT_POT_QUANTIZER`` or
            ``LUT_SYM_QUANTIZER``, in words ``lut_power_of_two`` and ``lut_symmetric``.
        num_bits: 2..16; 2..7 for look-up tables.
        training_method: A ``TrainingMethod``, or the identifier of a quantizer of your own.
        calibration: How the initial parameters follow from the weights.
        percentile: Share of the values, in percent, that ``calibration="percentile"`` keeps in range.
        freeze: Whether the parameters keep their calibrated values.
        schedule: When training quantizes and the parameters learn; None does both from the first step.
        threshold_domain: ``LOG2`` trains log2 of thresholds, which an optimizer then moves by factors; not ``UNIFORM``.
        ewgs: δ, by which the rounding error in steps scales the gradient to the values; 0 does not scale it.
        granularity: One set of parameters per tensor or per channel.
        bits_candidates: Widths that the training method DQA chooses from, ``num_bits`` among them; none for others.
        bias: ``ACCUMULATOR`` rounds it to the grid of the layer's sums wherever weights and input lie on power-of-two
            grids, as on an integer accelerator: see ``AccumulatorGrid``. ``FLOAT`` leaves it in float.
        bias_correction: Whether the bias compensates for the mean error of the quantized weights and inputs, measured
            on the calibration data: see ``BiasCorrection``.
        accumulator_bits: 8..32: bits of two's complement that the sums of a layer, with bias and partial sums, never
            exceed wherever weights and input lie on power-of-two grids; None sets no limit.
        oscillations: How flip rates are measured, and above which rate weights are frozen; None, or false in a rule,
            does neither.

    Raises:
        QuantizerError: a value that is not allowed.

    Examples:
        >>> WeightsScheme(method="power_of_two", num_bits=4).granularity is Granularity.PER_CHANNEL
        True
    """

    target = QuantizationTarget.Weights
    granularity: Granularity = Granularity.PER_CHANNEL
    bits_candidates: tuple[int, ...] | None = None
    bias: BiasGrid = BiasGrid.ACCUMULATOR
    bias_correction: bool = False
    accumulator_bits: int | None = None
    oscillations: Oscillations | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_candidates()
        if self.oscillations is False:  # of a rule
            object.__setattr__(self, "oscillations", None)
        if self.accumulator_bits is not None and self.bias is BiasGrid.FLOAT:
            advice = "write bias = 'accumulator', or leave accumulator_bits out: a bias in float is in no accumulator"
            raise invalid(type(self).__name__, "bias", "accumulator where accumulator_bits are set", "float", advice)
        for method, advice in _UNLIMITED.items():
            if self.accumulator_bits is not None and self.training_method is method:
                rule = f"None with {method.value}"
                raise invalid(type(self).__name__, "accumulator_bits", rule, self.accumulator_bits, advice)
        if self.accumulator_bits is not None and self.method in TABLED:
            advice = "choose another method: limited weights would not be entries of the table"
            rule = "None with a look-up table"
            raise invalid(type(self).__name__, "accumulator_bits", rule, self.accumulator_bits, advice)

    def _check_candidates(self) -> None:
        owner, widths, learned = type(self).__name__, self.bits_candidates, self.training_method is TrainingMethod.DQA
        if learned and not widths:
            raise invalid(owner, "bits_candidates", "given with DQA", widths, "write bits_candidates = [2, 4, 8], say")
        if widths and not learned:
            advice = "write training_method = 'DQA', or leave bits_candidates out"
            raise invalid(owner, "training_method", "DQA with bits_candidates", self.training_method, advice)
        if widths and self.num_bits not in widths:
            advice = "it is the width in use until another has more attention"
            raise invalid(owner, "num_bits", f"one of bits_candidates {list(widths)}", self.num_bits, advice)
        if widths and (self.schedule is None or not self.schedule.ramp):
            advice = "write schedule = { ramp = 1000 }: widths are learned until it ends"
            raise invalid(owner, "schedule", "one with a ramp for DQA", self.schedule, advice)

    def config(
        self,
        params: Mapping[str, Any],
        channel_axis: int | None = None,
        candidates: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> TrainableQuantizerWeightsConfig:
        """The configuration of a quantizer that starts from ``params``.

        Args:
            params: As the configuration has them.
            channel_axis: Of the weight.
            candidates: Of DQA, what each of the widths starts from.

        Raises:
            QuantizerError: a per-channel scheme without ``channel_axis``.

        Examples:
            >>> WeightsScheme().config({"threshold": 2.0}, channel_axis=-1).weights_n_bits
            8
        """
        per_channel = self.granularity is Granularity.PER_CHANNEL
        axis: Any = channel_axis  # None is the axis of a tensor as a whole
        each = [TrainableQuantizerCandidateConfig(bits, dict(found)) for bits, found in (candidates or {}).items()]
        return TrainableQuantizerWeightsConfig(
            self.method,
            self.num_bits,
            dict(params),
            True,
            axis,
            per_channel,
            MIN_THRESHOLD,
            each or None,
            **self._gradient_rules,
        )


@dataclass(frozen=True)
class ActivationsScheme(_Scheme):
    """How activations are quantized, always per tensor; the arguments up to ``ewgs`` are those of ``WeightsScheme``.

    Args:
        rounding: How values half way between two levels are rounded, to match the target device: ``HALF_EVEN``,
            ``HALF_UP`` or ``HALF_AWAY``. None for the framework's rule. Only for ``POWER_OF_TWO``.

    Examples:
        >>> ActivationsScheme(calibration="percentile", percentile=99.9).num_bits
        8
    """

    target = QuantizationTarget.Activation
    rounding: RoundingRule | None = None

    def config(self, params: Mapping[str, Any]) -> TrainableQuantizerActivationConfig:
        """The configuration of a quantizer that starts from ``params``.

        Examples:
            >>> ActivationsScheme(num_bits=4).config({"threshold": 2.0, "is_signed": False}).activation_n_bits
            4
        """
        return TrainableQuantizerActivationConfig(
            self.method,
            self.num_bits,
            dict(params),
            True,
            MIN_THRESHOLD,
            activation_rounding=self.rounding,
            **self._gradient_rules,
        )


SCHEMES: dict[str, type[_Scheme]] = {"weights": WeightsScheme, "activations": ActivationsScheme}
