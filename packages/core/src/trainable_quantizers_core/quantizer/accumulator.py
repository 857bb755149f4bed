"""The grid of a layer's accumulator, and how its bias is brought onto it: contract section 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import frexp
from numbers import Real
from typing import Any

from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.grid import ArrayOps
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer

LARGEST_BIAS = 2**31 - 128
"""In steps: the largest float32 that 32 bits hold."""


class AccumulatorGrid:
    """Multiples of Δ_x·Δ_w[c], on which the products of a layer and their sums lie, and with this its bias too.

    Δ_w[c] is the step of the weights of channel c, Δ_x that of the layer's input. Both are powers of two, so that
    float32 adds multiples of their product exactly, in any order, as long as sums stay below 2^24 of them.

    Args:
        inputs: Δ_x: a power of two, or the power-of-two quantizer of the input, whose step the grid follows; its place
            in a model, until it is found there. Several, where the layer is called on several inputs: the coarsest
            counts, whose multiples are multiples of the others.

    Raises:
        QuantizerError: none, a number that is no power of two, or a quantizer of another method.

    Examples:
        >>> AccumulatorGrid(2**-7).coarsest(max)
        0.0078125
    """

    def __init__(self, inputs: Any) -> None:
        given = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
        self.inputs: tuple[Any, ...] = tuple(float(each) if isinstance(each, Real) else each for each in given)
        for each in self.inputs or (None,):
            fits = frexp(each)[0] == 0.5 if isinstance(each, float) else isinstance(each, str) or is_power_of_two(each)
            if not fits:
                rule = "a power of two or a power-of-two quantizer"
                raise invalid(type(self).__name__, "step of the input", rule, each, "another grid is no grid of sums")

    def coarsest(self, larger: Callable[[Any, Any], Any]) -> Any:
        """Δ_x; ``larger`` tells the larger of two numbers or tensors of a framework."""
        return reduce(larger, (each.step() if isinstance(each, RangeQuantizer) else each for each in self.inputs))


def is_power_of_two(quantizer: Any) -> bool:
    """Whether it is an enabled quantizer whose step is a power of two."""
    powers = isinstance(quantizer, RangeQuantizer) and quantizer.specification.method is QuantizationMethod.POWER_OF_TWO
    return powers and quantizer.enabled


def rounded_bias(ops: ArrayOps, bias: Any, step: Any) -> Any:
    """round(b/Δ)·Δ, halves to even, clipped to 32 bits; exact, because Δ is a power of two.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.grid import NUMPY_OPS
        >>> rounded_bias(NUMPY_OPS, np.float32([0.3, -0.375, 1e12]), np.float32([0.25, 0.25, 1.0])).tolist()
        [0.25, -0.5, 2147483520.0]
    """
    levels = ops.round(bias / step)
    levels = ops.where(levels < LARGEST_BIAS, levels, float(LARGEST_BIAS))
    return ops.where(levels > -LARGEST_BIAS, levels, -float(LARGEST_BIAS)) * step


def bias_gradient(ops: ArrayOps, g: Any, bias: Any, step: Any) -> Any:
    """Straight through the rounding; zero where 32 bits clip the bias.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.quantizer.grid import NUMPY_OPS
        >>> bias_gradient(NUMPY_OPS, np.float32([2, 3]), np.float32([0.3, 1e12]), np.float32([1, 1])).tolist()
        [2.0, 0.0]
    """
    levels = bias / step
    return ops.where((levels <= LARGEST_BIAS) & (levels >= -LARGEST_BIAS), g, 0.0)


def per_bias(step: Any, size: int, repeat: Callable[[Any, int], Any]) -> Any:
    """Δ_w for each of ``size`` channels of the result, of one for all or for fewer channels of the weights.

    Args:
        step: Of shape () or (channels of the weights,).
        size: Channels of the result.
        repeat: ``repeat(step, times)``: a transposed convolution in groups has its channels group after group, a
            depthwise one with a multiplier side by side.
    """
    channels = step.shape[0] if len(step.shape) else size
    return step if channels == size else repeat(step, size // channels)
