"""Test cases as data: quantizers, numbers of bits, signs and channel axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.constants import (
    LUT_VALUES,
    MIN_THRESHOLD,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    TABLE,
    THRESHOLD,
)
from trainable_quantizers_core.enums import ThresholdDomain, TrainingMethod
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)

NUM_BITS = (2, 3, 4, 8, 16)
SOFT_ROUNDING_BITS = (4,)
"""Soft rounding adds an offset to what STE quantizes at all widths."""
CANDIDATES = {4: (4, 8, 2)}
"""Candidates of DQA in the order of its attention, by the width that is first in use."""
TABLE_BITS = (4,)
"""A table of fewer or more entries has nothing that one of 16 lacks."""
SHAPE = (4, 5, 3)
"""Shape of the tensors whose channels are counted by an axis."""
THRESHOLDS = (0.7, 2.0, 0.013, 150.0, 1.0)
RANGES = ((-1.1, 2.3), (0.4, 1.9), (-3.0, -0.2), (-1.0, 1.0), (0.0, 60.0))


@dataclass(frozen=True)
class Case:
    """One configuration of one quantizer.

    Args:
        identifier: The identifier that marks the class; a ``TrainingMethod`` for the shipped ones.
        target: Weights or activations.
        method: POWER_OF_TWO, SYMMETRIC, UNIFORM, LUT_SYM_QUANTIZER or LUT_POT_QUANTIZER.
        num_bits: 2..16; 2..7 of a table.
        signed: Whether the grid has levels below zero; a uniform grid counts from 0.
        axis: Channel axis; None is per tensor.
        min_threshold: Smallest threshold.
        shape: Shape of the weight; activations have any.
        log2: Whether the variable holds log2 of the threshold.
        ewgs: δ, by which rounding errors scale dL/dx.

    Examples:
        >>> case = Case(
        ...     TrainingMethod.LSQ, QuantizationTarget.Activation, QuantizationMethod.POWER_OF_TWO, 4, signed=False)
        >>> str(case), case.initial_values()
        ('LSQ-activation-power_of_two-unsigned-4bit', {'threshold': array(0.7, dtype=float32)})
    """

    identifier: Any
    target: QuantizationTarget
    method: QuantizationMethod
    num_bits: int
    signed: bool = True
    axis: int | None = None
    min_threshold: float = MIN_THRESHOLD
    shape: tuple[int, ...] = SHAPE
    log2: bool = False
    ewgs: float = 0.0

    def __str__(self) -> str:
        sign = "" if self.uniform else "signed-" if self.signed else "unsigned-"
        where = "" if self.is_activation else "-tensor" if self.axis is None else f"-axis{self.axis}"
        name = getattr(self.identifier, "value", self.identifier)
        rules = ("-log2" if self.log2 else "") + (f"-ewgs{self.ewgs:g}" if self.ewgs else "")
        return f"{name}-{self.target.value.lower()}-{self.method.name.lower()}-{sign}{self.num_bits}bit{where}{rules}"

    @property
    def uniform(self) -> bool:
        """Whether the quantizer learns two ends."""
        return self.method is QuantizationMethod.UNIFORM

    @property
    def power_of_two(self) -> bool:
        """Whether thresholds are powers of two."""
        return self.method in (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.LUT_POT_QUANTIZER)

    @property
    def tabled(self) -> bool:
        """Whether levels are the entries of a table."""
        return self.method in (QuantizationMethod.LUT_SYM_QUANTIZER, QuantizationMethod.LUT_POT_QUANTIZER)

    @property
    def is_activation(self) -> bool:
        """Whether the quantizer is one of activations."""
        return self.target is QuantizationTarget.Activation

    @property
    def tensor_shape(self) -> tuple[int, ...] | None:
        """The shape for ``initialize_quantization``."""
        return None if self.is_activation else self.shape

    def initial_values(self) -> dict[str, np.ndarray]:
        """The initial values of the variables, different for every channel."""
        values = self.parameters()
        return {**values, "threshold": np.log2(values["threshold"])} if self.log2 else values

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters, different for every channel."""
        count = 1 if self.axis is None else self.shape[self.axis]
        shape = () if self.axis is None else (count,)
        if self.uniform:
            low, high = np.resize(np.array(RANGES, np.float32), (count, 2)).T
            return {"min_range": low.reshape(shape), "max_range": high.reshape(shape)}
        threshold = np.resize(np.array(THRESHOLDS, np.float32), count).reshape(shape)
        return {"threshold": threshold, **({"table": self._levels() / self._table_steps} if self.tabled else {})}

    @property
    def _table_steps(self) -> np.float32:
        return np.float32(128 if self.signed else 256)

    def _levels(self) -> np.ndarray:
        """Entries out of order, further apart at the ends, and one of them twice."""
        fractions = np.linspace(-1 if self.signed else 0, 0.99, 2**self.num_bits)
        levels = np.rint(np.sign(fractions) * fractions**2 * self._table_steps)
        levels[2] = levels[1]
        return np.roll(levels, 1).astype(np.float32)

    def candidates(self) -> dict[int, dict[str, np.ndarray]]:
        """Raw parameters of each candidate by its width, in the order of the attention."""
        factors = zip(CANDIDATES[self.num_bits], (1.0, 1.6, 0.7), strict=True)
        values = self.initial_values()
        return {bits: {name: value * np.float32(factor) for name, value in values.items()} for bits, factor in factors}

    def of_channel(self, values: Mapping[str, np.ndarray], channel: int) -> dict[str, np.ndarray]:
        """The parameters of one channel; all share a table."""
        return {name: value if name == TABLE else value[channel] for name, value in values.items()}

    def config(self, **changes: Any) -> TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig:
        """The configuration object, with other values for some of its fields on request."""
        params = _params(self.parameters())
        if self.tabled:
            params[LUT_VALUES] = self._levels().astype(int).tolist()
        learning = {
            "threshold_domain": ThresholdDomain.LOG2 if self.log2 else ThresholdDomain.LINEAR,
            "ewgs": self.ewgs,
        }
        if self.is_activation:
            if not self.uniform:
                params[SIGNED] = self.signed
            activation = {
                "activation_quantization_method": self.method,
                "activation_n_bits": self.num_bits,
                "activation_quantization_params": params,
                "enable_activation_quantization": True,
                "min_threshold": self.min_threshold,
            }
            return TrainableQuantizerActivationConfig(**{**activation, **learning, **changes})
        weights = {
            "weights_quantization_method": self.method,
            "weights_n_bits": self.num_bits,
            "weights_quantization_params": params,
            "enable_weights_quantization": True,
            "weights_channels_axis": 0 if self.axis is None else self.axis,
            "weights_per_channel_threshold": self.axis is not None,
            "min_threshold": self.min_threshold,
        }
        if self.identifier == TrainingMethod.DQA:
            each = [TrainableQuantizerCandidateConfig(bits, _params(of)) for bits, of in self.candidates().items()]
            weights["weights_quantization_candidates"] = each[::-1]
        return TrainableQuantizerWeightsConfig(**{**weights, **learning, **changes})


_WEIGHTS, _ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
_POT, _SYMMETRIC, _UNIFORM = QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM
_LUT_SYM, _LUT_POT = QuantizationMethod.LUT_SYM_QUANTIZER, QuantizationMethod.LUT_POT_QUANTIZER
_STE, _LSQ, _ADAROUND = TrainingMethod.STE, TrainingMethod.LSQ, TrainingMethod.ADAROUND

GRADIENT_RULES = (
    Case(_LSQ, _WEIGHTS, _SYMMETRIC, 4, axis=0, log2=True, ewgs=0.3),
    Case(_LSQ, _WEIGHTS, _POT, 3, axis=0, log2=True),
    Case(_LSQ, _WEIGHTS, _LUT_SYM, 4, axis=-1, log2=True),
    Case(_ADAROUND, _WEIGHTS, _SYMMETRIC, 4, axis=1, log2=True),
    Case(_LSQ, _ACTIVATION, _SYMMETRIC, 4, log2=True, ewgs=0.3),
    Case(_LSQ, _ACTIVATION, _LUT_POT, 4, log2=True),
    Case(_STE, _ACTIVATION, _POT, 3, signed=False, log2=True),
    Case(_LSQ, _WEIGHTS, _UNIFORM, 3, axis=1, ewgs=0.3),
    Case(_STE, _ACTIVATION, _UNIFORM, 3, ewgs=1.5),
    Case(_LSQ, _ACTIVATION, _POT, 2, signed=False, ewgs=0.3),
)
"""The rules by which thresholds and x learn, once on each path; of all of them a slow compiler gets two of 4 bits."""


def _params(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Raw parameters of a range, as a configuration has them."""
    names = {"min_range": RANGE_MIN, "max_range": RANGE_MAX, "threshold": THRESHOLD}
    return {names[name]: value.tolist() for name, value in values.items() if name != TABLE}


def can_be(case: Case) -> bool:
    """Whether a quantizer of the contract can have this case.

    Activations have one set of parameters, and neither rounding nor widths that are learned; weights and uniform grids
    have no choice of sign; tables are learned by LSQ, those of activations as powers of two.
    """
    of_weights = (TrainingMethod.ADAROUND, TrainingMethod.DQA)
    if case.is_activation and (case.axis is not None or case.identifier in of_weights):
        return False
    if case.tabled and (case.identifier is not TrainingMethod.LSQ or case.num_bits not in TABLE_BITS):
        return False
    if case.tabled and case.is_activation and not case.power_of_two:
        return False
    if case.identifier is TrainingMethod.ADAROUND and case.num_bits not in SOFT_ROUNDING_BITS:
        return False
    if case.identifier == TrainingMethod.DQA and case.num_bits not in CANDIDATES:
        return False
    return case.signed or (case.is_activation and not case.uniform)


def all_cases(identifiers: tuple[Any, ...] = tuple(TrainingMethod)) -> Iterator[Case]:
    """Every case of the shipped quantizers: about 210."""
    targets = (QuantizationTarget.Weights, QuantizationTarget.Activation)
    evenly = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM)
    methods = (*evenly, QuantizationMethod.LUT_SYM_QUANTIZER, QuantizationMethod.LUT_POT_QUANTIZER)
    axes = (None, 0, 1, -1)
    for fields in product(identifiers, targets, methods, NUM_BITS, (True, False), axes):
        case = Case(*fields)
        if can_be(case):
            yield case
    yield from (case for case in GRADIENT_RULES if case.identifier in identifiers)
