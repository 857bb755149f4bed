"""How weights or activations are quantized, before any layer or framework: the sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from numbers import Integral, Real
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
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.accumulator import MAX_ACCUMULATOR_BITS, MIN_ACCUMULATOR_BITS
from trainable_quantizers_core.quantizer.base_quantizer import constructor_parameters
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
    keeps_sign,
)
from trainable_quantizers_core.quantizer.grid import MAX_BITS, MIN_BITS
from trainable_quantizers_core.quantizer.oscillations import Oscillations
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule
from trainable_quantizers_core.quantizer.table import MAX_TABLE_BITS

METHODS: dict[str, Enum] = {
    "power_of_two": QuantizationMethod.POWER_OF_TWO,
    "symmetric": QuantizationMethod.SYMMETRIC,
    "uniform": QuantizationMethod.UNIFORM,
    "lut_power_of_two": QuantizationMethod.LUT_POT_QUANTIZER,
    "lut_symmetric": QuantizationMethod.LUT_SYM_QUANTIZER,
}
"""The methods by their words in recipes."""

_CHOICES: dict[str, dict[str, Enum]] = {
    "method": METHODS,
    "granularity": {member.value: member for member in Granularity},
    "training_method": {member.value.lower(): member for member in TrainingMethod},
    "calibration": {member.value: member for member in CalibrationMethod},
    "bias": {member.value: member for member in BiasGrid},
    "rounding": {member.value: member for member in RoundingRule},
    "threshold_domain": {member.value: member for member in ThresholdDomain},
}

_WIDTHS = {
    "num_bits": (MIN_BITS, MAX_BITS, "these are the widths that the inferable quantizers deploy"),
    "accumulator_bits": (
        MIN_ACCUMULATOR_BITS,
        MAX_ACCUMULATOR_BITS,
        "it is the width of the register that adds products",
    ),
}

_UNLIMITED = {
    TrainingMethod.ADAROUND: "reconstruct first, and train with another method: learned rounding knows no limit",
    TrainingMethod.DQA: "learn the widths first, and train by learned_recipe: the mixture knows no limit",
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
        """The quantizer of a framework, of which ``base`` is the base class.

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
    """How weights are quantized. Words may be given as strings, in any case, as in a file.

    Args:
        method: ``POWER_OF_TWO``, ``SYMMETRIC``, ``UNIFORM``, or for a learned look-up table ``LUT_POT_QUANTIZER`` or
            ``LUT_SYM_QUANTIZER``, in words ``lut_power_of_two`` and ``lut_symmetric``.
        num_bits: 2..16; 2..7 of look-up tables.
        training_method: A ``TrainingMethod``, or the identifier of a quantizer of your own.
        calibration: How the initial parameters follow from the weights.
        percentile: Share of the values, in percent, that ``calibration="percentile"`` keeps in range.
        freeze: Whether the parameters stay as calibrated.
        schedule: When training quantizes and the parameters learn; None does both from the first step.
        threshold_domain: ``LOG2`` trains log2 of thresholds, which an optimizer then moves by factors; not ``UNIFORM``.
        ewgs: δ, by which the rounding error in steps scales the gradient to the values; 0 does not scale it.
        granularity: One set of parameters per tensor or per channel.
        bits_candidates: Widths that the training method DQA chooses from, ``num_bits`` among them; none for others.
        bias: ``ACCUMULATOR`` rounds it to the grid of the layer's sums wherever weights and input lie on power-of-two
            grids, as an integer accelerator has it: see ``AccumulatorGrid``. ``FLOAT`` leaves it.
        bias_correction: Whether the bias makes up for the mean error of the quantized weights and inputs, measured on
            the calibration data: see ``BiasCorrection``.
        accumulator_bits: 8..32: bits of two's complement that the sums of a layer, bias and every part of a sum
            included, never exceed wherever weights and input lie on power-of-two grids; None sets no limit.
        oscillations: How flip rates are measured, and from which on weights are frozen; None, or false in a rule, does
            neither.

    Raises:
        QuantizerError: a value that is none of these.

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
            advice = "choose another method: weights within the limit would be no entries of the table"
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
    """How activations are quantized: as ``WeightsScheme`` but its last four, for they are per tensor.

    Args:
        rounding: How values half way between two levels are rounded, as the target device does: ``HALF_EVEN``,
            ``HALF_UP`` or ``HALF_AWAY``. None for the rule of the framework. Of ``POWER_OF_TWO`` alone.

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


def read_fields(scheme: type[_Scheme], given: Any, where: str = "") -> dict[str, Any]:
    """The given fields of a scheme, words turned into members of their enumerations.

    Raises:
        QuantizerError: unknown keys or values, found ``where``.

    Examples:
        >>> read_fields(WeightsScheme, {"training_method": "lsq"})
        {'training_method': <TrainingMethod.LSQ: 'LSQ'>}
    """
    known = [field.name for field in fields(scheme)]
    return {key: _read(scheme.__name__, key, value, where) for key, value in read_keys(scheme, given, known, where)}


def read_keys(owner: type, given: Any, known: list[str], where: str) -> list[tuple[str, Any]]:
    """The items of a table with known keys.

    Raises:
        QuantizerError: no table, or an unknown key.
    """
    if not isinstance(given, Mapping):
        raise invalid(owner.__name__, "section", "a table of keys", given, f"known: {', '.join(known)}", where)
    for key in given:
        if key not in known:
            raise invalid(owner.__name__, "key", "a known one", key, nearest(key, known), where)
    return list(given.items())


def plain_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``read_fields`` was given, in terms of what TOML and JSON hold.

    Examples:
        >>> plain_fields({"method": QuantizationMethod.SYMMETRIC, "num_bits": 4})
        {'method': 'symmetric', 'num_bits': 4}
    """
    return {key: _plain(key, value) for key, value in values.items() if value is not None}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, QuantizationSchedule | Oscillations):
        return value.to_dict()
    if key == "method":
        return next(word for word, method in METHODS.items() if method is value)
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, Enum) else value


def _read(owner: str, key: str, value: Any, where: str) -> Any:
    if key in ("rounding", "accumulator_bits", "bits_candidates") and value is None:
        return None
    if key in _CHOICES:
        choices = _CHOICES[key]
        member = choices.get(value.lower()) if type(value) is str else value
        if any(member is choice for choice in choices.values()):
            return member
        if key == "training_method" and type(value) is str and value:  # an open set: see TrainingMethod
            return value
        raise invalid(owner, key, f"one of {', '.join(choices)}", value, nearest(str(value).lower(), choices), where)
    if key in _WIDTHS:
        least, most, advice = _WIDTHS[key]
        integer = isinstance(value, Integral) and not isinstance(value, bool)
        if not integer or not least <= value <= most:
            raise invalid(owner, key, f"an integer in {least}..{most}", value, advice, where)
        return int(value)
    if key == "bits_candidates":
        if not isinstance(value, (list, tuple)):
            raise invalid(owner, key, "a list of widths", value, "write [2, 4, 8], say", where)
        return tuple(sorted({_read(owner, "num_bits", bits, f"{where}, {key}") for bits in value}))
    if key == "schedule":
        if value is None or isinstance(value, QuantizationSchedule):
            return value
        known = [field.name for field in fields(QuantizationSchedule)]
        where = f"{where}, schedule" if where else " in schedule"
        steps = dict(read_keys(QuantizationSchedule, value, known, where))
        QuantizationSchedule.check(steps, where)
        return QuantizationSchedule(**steps)
    if key == "oscillations":
        if value is None or value is False or isinstance(value, Oscillations):
            return value
        return Oscillations.from_dict(value, f"{where}, oscillations" if where else " in oscillations")
    if key == "percentile":
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 50 < value <= 100:
            raise invalid(owner, key, "above 50 and at most 100", value, "it is a share in percent: 99.9, say", where)
        return float(value)
    if key == "ewgs":
        if not keeps_sign(value):
            raise invalid(owner, key, "a number of at least 0 and below 2", value, "0 scales no gradient", where)
        return float(value)
    if not isinstance(value, bool):
        raise invalid(owner, key, "true or false", value, "write it without quotes", where)
    return value
