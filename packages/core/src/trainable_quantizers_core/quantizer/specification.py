"""The specification of a shipped quantizer without a framework: its grid, its variables, its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.constants import (
    LUT_VALUES,
    MAX_RANGE,
    MIN_RANGE,
    POWERS,
    TABLE,
    TABLED,
    THRESHOLD,
)
from trainable_quantizers_core.enums import RoundingRule, ThresholdDomain
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer import grid as rules
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.config import (
    RangeConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.domain import logarithm, threshold
from trainable_quantizers_core.quantizer.grid import MAX_BITS, MIN_BITS, Grid
from trainable_quantizers_core.quantizer.parameters import read_parameters
from trainable_quantizers_core.quantizer.table import MAX_TABLE_BITS, effective_table, table_grid


@dataclass(frozen=True)
class RangeSpecification:
    """A quantizer whose parameters are the ends of a range, described by numbers alone.

    Args:
        owner: Name of the quantizer, for messages.
        method: POWER_OF_TWO, SYMMETRIC or UNIFORM, or one of ``TABLED``.
        grid: The levels; of a table as many as it has entries.
        min_threshold: Smallest threshold or width.
        channel_axis: Axis of the channels that have parameters of their own; None is per tensor.
        initial: Raw initial values by variable name, scalars or one per channel.
        rounding: How ties are rounded; None for the rule of the framework.
        threshold_domain: Whether the variable holds the threshold or its log2.
        ewgs: δ, by which the rounding error scales dL/dx.
    """

    owner: str
    method: QuantizationMethod
    grid: Grid
    min_threshold: float
    channel_axis: int | None
    initial: Mapping[str, np.ndarray]
    rounding: RoundingRule | None = None
    threshold_domain: ThresholdDomain = ThresholdDomain.LINEAR
    ewgs: float = 0.0

    @classmethod
    def from_config(cls, owner: str, config: RangeConfig) -> RangeSpecification:
        """The specification that a configuration asks for.

        Raises:
            QuantizerError: bits, parameters or axis that leave no grid, or unused keys.
        """
        bits, tabled = config.num_bits, config.quantization_method in TABLED
        most = MAX_TABLE_BITS if tabled else MAX_BITS
        if not MIN_BITS <= bits <= most:
            advice = "choose a width that the inferable quantizers can deploy"
            if tabled:
                advice = f"a table holds some of the levels of {MAX_TABLE_BITS + 1} bits; for more use SYMMETRIC"
            raise invalid(owner, f"{config.target}_n_bits", f"in {MIN_BITS}..{most}", bits, advice)
        if tabled and config.ewgs:
            advice = "entries of a table have no common step to count the rounding error in"
            raise invalid(owner, "ewgs", "0 with a look-up table", config.ewgs, advice)
        axis = None
        if isinstance(config, TrainableQuantizerWeightsConfig) and config.weights_per_channel_threshold:
            axis = config.weights_channels_axis
        params, grid = read_parameters(owner, config, scalars=axis is None)
        rounding = getattr(config, "activation_rounding", None)
        learning = (config.threshold_domain, config.ewgs)
        return cls(owner, config.quantization_method, grid, config.min_threshold, axis, params, rounding, *learning)

    @property
    def power_of_two(self) -> bool:
        """Whether thresholds are powers of two."""
        return self.method in POWERS

    @property
    def log2(self) -> bool:
        """Whether the variable of the threshold holds its log2."""
        return self.threshold_domain is ThresholdDomain.LOG2

    def variable(self, name: str, value: np.ndarray) -> np.ndarray:
        """The value of a parameter's variable: the parameter, or v for a threshold in the log2 domain."""
        return logarithm(value, self.power_of_two) if self.log2 and name == THRESHOLD else value

    def parameter(self, name: str, variable: np.ndarray) -> np.ndarray:
        """The parameter that a variable stands for, as it is read, saved and deployed: the inverse of ``variable``."""
        return threshold(variable, self.power_of_two) if self.log2 and name == THRESHOLD else variable

    def parameter_gradient(self, name: str, parameter: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """dL/dparameter from that of its variable: dL/dt = dL/dv/(t·ln 2) in the log2 domain."""
        return gradient / (parameter * np.log(2)) if self.log2 and name == THRESHOLD else gradient

    @property
    def levels(self) -> Grid:
        """The levels of its values: the grid, or for a table that of its entries."""
        return table_grid(self.grid.signed) if self.method in TABLED else self.grid

    def initial_values(self, tensor_shape: Sequence[int] | None) -> dict[str, np.ndarray]:
        """One float32 value per variable: shape () per tensor, (channels,) per channel; of a table (entries,).

        Raises:
            QuantizerError: the axis or the number of channels does not fit the tensor.
        """
        if self.channel_axis is None:
            return dict(self.initial)
        shape = () if tensor_shape is None else tuple(tensor_shape)
        axis = self.channel_axis
        where = f" for a tensor of shape {shape}"
        if not -len(shape) <= axis < len(shape):
            advice = "name the channel axis, or quantize per tensor"
            raise invalid(
                self.owner, "weights_channels_axis", f"in {-len(shape)}..{len(shape) - 1}", axis, advice, where
            )
        channels = shape[axis]
        return {name: self._per_channel(name, value, shape, channels) for name, value in self.initial.items()}

    def _per_channel(self, name: str, value: np.ndarray, shape: tuple[int, ...], channels: int) -> np.ndarray:
        if name == TABLE:
            return value
        broadcast = [1] * len(shape)
        broadcast[self.channel_axis or 0] = channels
        if value.size == 1:
            return np.full((channels,), value.reshape(()), np.float32)
        if value.shape in ((channels,), tuple(broadcast)):
            return value.reshape((channels,))
        raise invalid(
            self.owner,
            name,
            f"a scalar, or of shape ({channels},) or {tuple(broadcast)}",
            value.shape,
            "give one value per channel",
            f" for a tensor of shape {shape} with channels on axis {self.channel_axis}",
        )

    def lsq_factor(self, shared_by: int) -> float:
        """The factor r = 1/sqrt(N·highest) for N elements that share a parameter (Esser et al. 2020).

        Examples:
            >>> RangeSpecification("q", QuantizationMethod.SYMMETRIC, Grid(3, True), 2**-16, None, {}).lsq_factor(12)
            0.16666666666666666
        """
        return 1.0 / sqrt(max(shared_by, 1) * self.grid.highest)

    def inferable_arguments(self, values: Mapping[str, np.ndarray], from_step: bool) -> dict[str, Any]:
        """The arguments of the inferable quantizer that computes what the forward computes.

        A uniform range is handed over in float64, as exact multiples of its step, so that the
        inferable's own adjustment to zero finds nothing to adjust.

        Args:
            values: The raw variables.
            from_step: Whether the inferable derives its step from the threshold alone (PyTorch), and so needs
                the threshold of the trained step, or from both ends of the range as TensorFlow's kernel does.
        """
        bits = {"num_bits": self.grid.num_bits}
        if self.method is QuantizationMethod.UNIFORM:
            step, zero_point = (a.astype(np.float64) for a in self._uniform_grid(values))
            low, high = rules.uniform_range(step, zero_point, self.grid)
            return {**bits, MIN_RANGE: _float_list(low), MAX_RANGE: _float_list(high)}
        threshold = self._threshold(values)
        if self.method in TABLED:
            levels = effective_table(NUMPY_OPS, values[TABLE], self.levels)
            entries = [int(level) for level in levels]
            return {**bits, LUT_VALUES: entries, THRESHOLD: _float_list(threshold), "eps": 0.0}
        if from_step:
            step = rules.range_step(NUMPY_OPS, *rules.symmetric_range(threshold, self.grid), self.grid)
            threshold = step * np.float32(self.grid.steps_per_threshold)
        return {**bits, THRESHOLD: _float_list(threshold)}

    # One-dimensional arrays below: numpy 1 turns a 0-d float32 and a Python float into float64.
    def _threshold(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        threshold = values[THRESHOLD].reshape(-1)
        return rules.effective_threshold(NUMPY_OPS, threshold, self.min_threshold, self.power_of_two)

    def _uniform_grid(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        low, high = values[MIN_RANGE].reshape(-1), values[MAX_RANGE].reshape(-1)
        return rules.uniform_grid(NUMPY_OPS, low, high, self.grid, self.min_threshold)


def _float_list(array: np.ndarray) -> list[float]:
    return [float(value) for value in array]


def elements_per_sample(tensor_shape: Sequence[int]) -> int:
    """Elements of an activation that share a threshold: all axes but the batch.

    Examples:
        >>> elements_per_sample((32, 3, 8)), elements_per_sample((32,)), elements_per_sample(())
        (24, 1, 1)
    """
    return prod(tensor_shape[1:])
