"""Configurations of quantizers: target, method, number of bits and initial parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import MIN_THRESHOLD, SMALLEST_MIN_THRESHOLD
from trainable_quantizers_core.enums import RoundingRule, ThresholdDomain
from trainable_quantizers_core.errors import nearest
from trainable_quantizers_core.quantizer.base_config import TrainableQuantizerConfig
from trainable_quantizers_core.reading import check_size


@dataclass(frozen=True, eq=False)
class TrainableQuantizerCandidateConfig(TrainableQuantizerConfig):
    """One alternative of a mixed-precision search: a number of bits with the parameters that fit it.

    Args:
        n_bits: Number of bits.
        quantization_params: Initial quantization parameters at that number of bits.

    Raises:
        QuantizerError: a value of the wrong type or out of range.

    Examples:
        >>> candidates = [TrainableQuantizerCandidateConfig(bits, {"threshold": 1.0}) for bits in (4, 8)]
        >>> [candidate.n_bits for candidate in candidates]
        [4, 8]
    """

    n_bits: int
    quantization_params: dict[str, Any]

    def __post_init__(self) -> None:
        self._check_bits("n_bits")
        self._check_params("quantization_params")


def keeps_sign(ewgs: Any) -> bool:
    """Whether scaling by a rounding error of at most half a step never changes the sign of a gradient."""
    return isinstance(ewgs, Real) and not isinstance(ewgs, bool) and 0 <= float(ewgs) < 2


@dataclass(frozen=True, eq=False)
class _TargetConfig(TrainableQuantizerConfig):
    """The fields that weights and activations share, under the names ``{target}_*``."""

    target: ClassVar[str]

    def __post_init__(self) -> None:
        check_size(type(self).__name__, "arguments", list(vars(self).values()))
        prefix = self.target
        method = getattr(self, f"{prefix}_quantization_method")
        self._check(
            f"{prefix}_quantization_method",
            isinstance(method, QuantizationMethod),
            "a member of QuantizationMethod",
            "import it from mct_quantizers; an enumeration of the same name from elsewhere is another one",
        )
        self._check_bits(f"{prefix}_n_bits")
        self._check_params(f"{prefix}_quantization_params")
        self._check_flag(f"enable_{prefix}_quantization")
        name = f"{prefix}_quantization_candidates"
        minimum: Any = self.min_threshold  # type: ignore[attr-defined]
        if isinstance(minimum, (list, tuple)) and getattr(self, name) is None:  # callers that skip min_threshold
            object.__setattr__(self, name, minimum)
            minimum = None
        minimum = MIN_THRESHOLD if minimum is None else minimum
        accepted = isinstance(minimum, Real) and not isinstance(minimum, bool)
        accepted = accepted and math.isfinite(minimum) and minimum >= SMALLEST_MIN_THRESHOLD
        self._check("min_threshold", accepted, "a positive number of at least 2^-100", "MIN_THRESHOLD suits most uses")
        object.__setattr__(self, "min_threshold", float(minimum))
        candidates = getattr(self, name)
        accepted = candidates is None or (
            isinstance(candidates, (list, tuple))
            and all(isinstance(candidate, TrainableQuantizerCandidateConfig) for candidate in candidates)
        )
        self._check(name, accepted, "None or a list of TrainableQuantizerCandidateConfig", "wrap each candidate in one")
        object.__setattr__(self, name, None if candidates is None else list(candidates))
        self._check_gradient()

    def _check_gradient(self) -> None:
        config: Any = self
        domain, known = config.threshold_domain, [each.value for each in ThresholdDomain]
        named = isinstance(domain, str) and domain in known
        self._check("threshold_domain", named, f"one of {', '.join(known)}", nearest(domain, known))
        object.__setattr__(self, "threshold_domain", ThresholdDomain(domain))
        has_threshold = self.quantization_method is not QuantizationMethod.UNIFORM
        advice = "a range of two ends has no threshold: leave it out"
        linear = domain == ThresholdDomain.LINEAR
        self._check("threshold_domain", linear or has_threshold, "linear where ranges are uniform", advice)
        self._check("ewgs", keeps_sign(config.ewgs), "a number of at least 0 and below 2", "0 scales no gradient")
        object.__setattr__(self, "ewgs", float(config.ewgs))

    # One view for code that serves both targets.
    @property
    def quantization_method(self) -> QuantizationMethod:
        """The method, for either target."""
        return getattr(self, f"{self.target}_quantization_method")

    @property
    def num_bits(self) -> int:
        """The number of bits, for either target."""
        return getattr(self, f"{self.target}_n_bits")

    @property
    def quantization_params(self) -> dict[str, Any]:
        """The initial parameters, for either target."""
        return getattr(self, f"{self.target}_quantization_params")

    @property
    def enabled(self) -> bool:
        """Whether the quantizer quantizes at all, for either target."""
        return getattr(self, f"enable_{self.target}_quantization")


@dataclass(frozen=True, eq=False)
class TrainableQuantizerWeightsConfig(_TargetConfig):
    """How to quantize a weight, and from which parameters to start.

    Args:
        weights_quantization_method: Member of ``mct_quantizers.QuantizationMethod``.
        weights_n_bits: Number of bits of a level; the shipped quantizers take 2..16.
        weights_quantization_params: ``{THRESHOLD: t}`` or ``{RANGE_MIN: a, RANGE_MAX: b}``. Per channel a
            list or array, flat ``(channels,)`` or shaped for broadcasting ``(channels, 1, 1, 1)``; a scalar
            serves every channel.
        enable_weights_quantization: False leaves the weight as it is.
        weights_channels_axis: Channel axis of the weight; negative counts from the end.
        weights_per_channel_threshold: One set of parameters per channel, or one for the whole tensor.
        min_threshold: Smallest threshold the quantizer may use; None for the default. Candidates may stand in its
            position, for callers that do not know this argument.
        weights_quantization_candidates: Alternatives for a mixed-precision search, kept with the rest.
        threshold_domain: ``"log2"`` trains log2 of the threshold, which an optimizer then moves by factors; everything
            else still means the threshold itself. Not for UNIFORM.
        ewgs: δ, by which the rounding error in steps scales the gradient to the values: g·(1 + δ·sign(g)·(x/Δ - y/Δ)).

    Raises:
        QuantizerError: a value of the wrong type or out of range.

    Examples:
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.SYMMETRIC, 8, {"threshold": 2.0}, True, 3, True, MIN_THRESHOLD)
        >>> TrainableQuantizerWeightsConfig.from_json(config.to_json()) == config
        True
    """

    target: ClassVar[str] = "weights"

    weights_quantization_method: QuantizationMethod
    weights_n_bits: int
    weights_quantization_params: dict[str, Any]
    enable_weights_quantization: bool
    weights_channels_axis: int
    weights_per_channel_threshold: bool
    min_threshold: float = MIN_THRESHOLD
    weights_quantization_candidates: list[TrainableQuantizerCandidateConfig] | None = field(default=None)
    threshold_domain: ThresholdDomain = ThresholdDomain.LINEAR
    ewgs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_flag("weights_per_channel_threshold")
        axis = self.weights_channels_axis
        integer = isinstance(axis, Integral) and not isinstance(axis, bool)
        accepted = integer or (axis is None and not self.weights_per_channel_threshold)
        self._check(
            "weights_channels_axis",
            accepted,
            "an integer (or None when per tensor)",
            "give the channel axis",
        )
        object.__setattr__(self, "weights_channels_axis", None if axis is None else int(axis))

    @property
    def weights_bits_candidates(self) -> list[TrainableQuantizerCandidateConfig] | None:
        """``weights_quantization_candidates`` under the name that the toolkit reads."""
        return self.weights_quantization_candidates


@dataclass(frozen=True, eq=False)
class TrainableQuantizerActivationConfig(_TargetConfig):
    """How to quantize an activation, and from which parameters to start.

    Args:
        activation_quantization_method: Member of ``mct_quantizers.QuantizationMethod``.
        activation_n_bits: Number of bits of a level; the shipped quantizers take 2..16.
        activation_quantization_params: ``{THRESHOLD: t, SIGNED: s}`` or ``{RANGE_MIN: a, RANGE_MAX: b}``, scalars.
            Without ``SIGNED`` a threshold is signed.
        enable_activation_quantization: False leaves the activation as it is.
        min_threshold: Smallest threshold the quantizer may use; None for the default. Candidates may stand in its
            position, for callers that do not know this argument.
        activation_quantization_candidates: Alternatives for a mixed-precision search, kept with the rest.
        activation_rounding: How values half way between two levels are rounded, to match the target device; None for
            the framework's rule. Only for POWER_OF_TWO.
        threshold_domain: ``"log2"`` trains log2 of the threshold, which an optimizer then moves by factors; everything
            else still means the threshold itself. Not for UNIFORM.
        ewgs: δ, by which the rounding error in steps scales the gradient to the values: g·(1 + δ·sign(g)·(x/Δ - y/Δ)).

    Raises:
        QuantizerError: a value of the wrong type or out of range.

    Examples:
        >>> TrainableQuantizerActivationConfig(
        ...     QuantizationMethod.UNIFORM, 8, {"threshold": 2.0}, True, MIN_THRESHOLD).enabled
        True
    """

    target: ClassVar[str] = "activation"

    activation_quantization_method: QuantizationMethod
    activation_n_bits: int
    activation_quantization_params: dict[str, Any]
    enable_activation_quantization: bool
    min_threshold: float = MIN_THRESHOLD
    activation_quantization_candidates: list[TrainableQuantizerCandidateConfig] | None = field(default=None)
    activation_rounding: RoundingRule | None = None
    threshold_domain: ThresholdDomain = ThresholdDomain.LINEAR
    ewgs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rule, known = self.activation_rounding, [each.value for each in RoundingRule]
        if rule is None:
            return
        named = isinstance(rule, (str, RoundingRule)) and rule in known
        self._check("activation_rounding", named, f"None, or one of {', '.join(known)}", nearest(rule, known))
        powers = self.activation_quantization_method is QuantizationMethod.POWER_OF_TWO
        self._check("activation_rounding", powers, "None where ranges are no powers of two", "leave it out")
        object.__setattr__(self, "activation_rounding", RoundingRule(rule))

    @property
    def activation_bits_candidates(self) -> list[TrainableQuantizerCandidateConfig] | None:
        """``activation_quantization_candidates`` under the name that the toolkit reads."""
        return self.activation_quantization_candidates


RangeConfig = TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig
