"""Calibration statistics of one tensor."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core.calibration.tensor_statistics import TensorStatistics

UNBOUNDED = "it holds infinities, as masks do, which quantization would turn into ordinary numbers"
UNREACHED = "calibration never reached it"
NOT_FLOATING = "not a floating tensor"


class Observation:
    """Statistics of a tensor over all batches, in constant memory, or the reason why there are none.

    Examples:
        >>> import numpy as np
        >>> seen = Observation()
        >>> seen.left_in_float
        'calibration never reached it'
        >>> seen.update(np.float32([0.5, -1.0]))
        >>> seen.left_in_float, seen.statistics.minimum
        ('', -1.0)
    """

    def __init__(self) -> None:
        self.statistics = TensorStatistics()
        self.left_in_float = UNREACHED

    def merge(self, other: Observation) -> None:
        """Add the statistics that another process gathered of the same tensor."""
        self.statistics.merge(other.statistics)
        if NOT_FLOATING in (self.left_in_float, other.left_in_float):
            self.left_in_float = NOT_FLOATING
        elif self.statistics.count:
            self.left_in_float = UNBOUNDED if self.statistics.unbounded else ""

    def update(self, values: Any) -> None:
        """Values of a further batch as a float array; None for a tensor of another type."""
        if values is None:
            self.left_in_float = NOT_FLOATING
        elif values.size:
            self.statistics.update(values)
            self.left_in_float = UNBOUNDED if self.statistics.unbounded else ""
