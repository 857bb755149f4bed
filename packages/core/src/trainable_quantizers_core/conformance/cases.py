"""What is checked: quantizers, numbers of bits, signs and channel axes, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.constants import MIN_THRESHOLD, RANGE_MAX, RANGE_MIN, SIGNED, THRESHOLD
from trainable_quantizers_core.enums import TrainingMethod
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)

NUM_BITS = (2, 3, 4, 8, 16)
SOFT_ROUNDING_BITS = (4,)
"""Soft rounding adds an offset to what STE quantizes at all widths."""
SHAPE = (4, 5, 3)
"""Shape of the tensors whose channels are counted by an axis."""
THRESHOLDS = (0.7, 2.0, 0.013, 150.0, 1.0)
RANGES = ((-1.1, 2.3), (0.4, 1.9), (-3.0, -0.2), (-1.0, 1.0), (0.0, 60.0))


@dataclass(frozen=True)
class Case:
    """One configuration of one quantizer.

    Args:
        identifier: What the class is marked with; a ``TrainingMethod`` for the shipped ones.
        target: Weights or activations.
        method: POWER_OF_TWO, SYMMETRIC or UNIFORM.
        num_bits: 2..16.
        signed: Whether the grid has levels below zero; a uniform grid counts from 0.
        axis: Channel axis; None is per tensor.
        min_threshold: Smallest threshold.
        shape: Shape of the weight; activations have any.
    """

    identifier: Any
    target: QuantizationTarget
    method: QuantizationMethod
    num_bits: int
    signed: bool = True
    axis: int | None = None
    min_threshold: float = MIN_THRESHOLD
    shape: tuple[int, ...] = SHAPE

    def __str__(self) -> str:
        sign = "" if self.uniform else "signed-" if self.signed else "unsigned-"
        where = "" if self.is_activation else "-tensor" if self.axis is None else f"-axis{self.axis}"
        name = getattr(self.identifier, "value", self.identifier)
        return f"{name}-{self.target.value.lower()}-{self.method.name.lower()}-{sign}{self.num_bits}bit{where}"

    @property
    def uniform(self) -> bool:
        """Whether the quantizer learns two ends."""
        return self.method is QuantizationMethod.UNIFORM

    @property
    def power_of_two(self) -> bool:
        """Whether thresholds are powers of two."""
        return self.method is QuantizationMethod.POWER_OF_TWO

    @property
    def is_activation(self) -> bool:
        """Whether the quantizer is one of activations."""
        return self.target is QuantizationTarget.Activation

    @property
    def tensor_shape(self) -> tuple[int, ...] | None:
        """What ``initialize_quantization`` is told."""
        return None if self.is_activation else self.shape

    def initial_values(self) -> dict[str, np.ndarray]:
        """Raw parameters, different for every channel."""
        count = 1 if self.axis is None else self.shape[self.axis]
        shape = () if self.axis is None else (count,)
        if self.uniform:
            low, high = np.resize(np.array(RANGES, np.float32), (count, 2)).T
            return {"min_range": low.reshape(shape), "max_range": high.reshape(shape)}
        return {"threshold": np.resize(np.array(THRESHOLDS, np.float32), count).reshape(shape)}

    def config(self, **changes: Any) -> TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig:
        """The configuration object, with other values for some of its fields on request."""
        names = {"min_range": RANGE_MIN, "max_range": RANGE_MAX, "threshold": THRESHOLD}
        params: dict[str, Any] = {names[name]: value.tolist() for name, value in self.initial_values().items()}
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
            return TrainableQuantizerActivationConfig(**{**activation, **changes})
        weights = {
            "weights_quantization_method": self.method,
            "weights_n_bits": self.num_bits,
            "weights_quantization_params": params,
            "enable_weights_quantization": True,
            "weights_channels_axis": 0 if self.axis is None else self.axis,
            "weights_per_channel_threshold": self.axis is not None,
            "min_threshold": self.min_threshold,
        }
        return TrainableQuantizerWeightsConfig(**{**weights, **changes})


def can_be(case: Case) -> bool:
    """Excludes what no quantizer of the contract can be.

    Activations have one set of parameters, and no rounding that is learned; weights and uniform grids have no choice of
    sign.
    """
    if case.is_activation and (case.axis is not None or case.identifier is TrainingMethod.ADAROUND):
        return False
    if case.identifier is TrainingMethod.ADAROUND and case.num_bits not in SOFT_ROUNDING_BITS:
        return False
    return case.signed or (case.is_activation and not case.uniform)


def all_cases(identifiers: tuple[Any, ...] = tuple(TrainingMethod)) -> Iterator[Case]:
    """Every case of the shipped quantizers: about 180."""
    targets = (QuantizationTarget.Weights, QuantizationTarget.Activation)
    methods = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM)
    axes = (None, 0, 1, -1)
    for fields in product(identifiers, targets, methods, NUM_BITS, (True, False), axes):
        case = Case(*fields)
        if can_be(case):
            yield case
