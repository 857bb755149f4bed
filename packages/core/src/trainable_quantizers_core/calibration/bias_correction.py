"""Bias correction: biases that compensate for the mean quantization error, before training."""

from __future__ import annotations

import numpy as np

BATCHES = 16
"""How many batches of the calibration data biases are corrected on: means settle sooner than ranges."""


class BiasCorrection:
    """The shift of a bias that brings the mean of each channel back to its mean in float.

    Rounding the weights shifts what a layer gives on average; few weights per channel, as in depthwise convolutions,
    shift it most. On each batch, layer by layer in order of execution, the shift is mean(float) - mean(quantized), and
    later layers see the shifted result, so each corrects only its own error. The bias gets the mean over batches.
    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2, with means from data.

    Examples:
        >>> correction = BiasCorrection()
        >>> for expected, found in (([1.0, 2.0], [1.5, 2.0]), ([1.0, 4.0], [1.0, 3.0])):
        ...     correction.expect(np.array(expected))
        ...     _ = correction.shift(np.array(found))
        >>> correction.mean_shift
        array([-0.25,  0.5 ])
    """

    def __init__(self) -> None:
        self._expected: list[np.ndarray] = []
        self._shifts: list[np.ndarray] = []

    def expect(self, mean: np.ndarray) -> None:
        """Record the float mean of each channel, of shape (channels,), for the next batch."""
        self._expected.append(mean)

    def shift(self, mean: np.ndarray) -> np.ndarray:
        """The shift for this batch, given the mean of each channel of the quantized model with its own bias."""
        self._shifts.append(self._expected[len(self._shifts)] - mean)
        return self._shifts[-1]

    @property
    def mean_shift(self) -> np.ndarray:
        """The shift of the bias; zero where a mean is not finite."""
        return np.nan_to_num(np.mean(self._shifts, axis=0), nan=0.0, posinf=0.0, neginf=0.0)
