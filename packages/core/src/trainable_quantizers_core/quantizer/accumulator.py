"""The accumulator of a layer: the grid of its sums and bias, and its number of bits (contract section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import frexp
from numbers import Real
from typing import Any

import numpy as np

from trainable_quantizers_core.constants import TABLED
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.array_ops import ArrayOps
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer

LARGEST_BIAS = 2**31 - 128
"""In steps: the largest float32 that 32 bits hold."""
MIN_ACCUMULATOR_BITS, MAX_ACCUMULATOR_BITS = 8, 32
_HALVINGS = 12  # α is found to within 2^-12; one step of the largest 8-bit weight is 2^-8


class AccumulatorGrid:
    """The grid of a layer's accumulator: multiples of Δ_x·Δ_w[c], for products, sums and the bias.

    Δ_w[c] is the step of the weights of channel c, Δ_x that of the layer's input. Both are powers of two, so that
    float32 adds multiples of their product exactly, in any order, as long as sums stay below 2^24 of them.

    Args:
        inputs: Δ_x: a power of two, or the power-of-two quantizer of the input, whose step the grid follows; its place
            in a model, until it is found there. Several if the layer is called on several inputs: the coarsest step
            counts, whose multiples are multiples of the others.
        bits: Bits of two's complement that no sum or partial sum exceeds; None sets no limit.
        channel_axis: Axis of the weight for the output channels; None for that of its quantizer.
        bias: Whether the layer has a bias, which is part of the sum.

    Raises:
        QuantizerError: no input, a number that is no power of two, or a quantizer of another method; a limit
            without the quantizers of the inputs, or one that a single product exceeds.

    Examples:
        >>> AccumulatorGrid(2**-7).input_step(max)
        0.0078125
    """

    def __init__(
        self, inputs: Any, bits: int | None = None, channel_axis: int | None = None, bias: bool = True
    ) -> None:
        given = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
        self.inputs: tuple[Any, ...] = tuple(float(each) if isinstance(each, Real) else each for each in given)
        for each in self.inputs or (None,):
            fits = frexp(each)[0] == 0.5 if isinstance(each, float) else isinstance(each, str) or is_power_of_two(each)
            if not fits:
                rule = "a power of two or a power-of-two quantizer"
                advice = "quantize the input by POWER_OF_TWO, or leave the bias in float"
                raise invalid(type(self).__name__, "step of the input", rule, each, advice)
        self.bits, self.channel_axis, self.bias = bits, channel_axis, bias
        if bits is not None:
            self._check_bits(bits)

    def _check_bits(self, bits: int) -> None:
        owner = type(self).__name__
        if any(isinstance(each, float) for each in self.inputs):
            advice = "pass the quantizers themselves: the limit depends on their levels"
            raise invalid(owner, "inputs", "quantizers where bits are limited", self.inputs, advice)
        known = [each for each in self.inputs if isinstance(each, RangeQuantizer)]
        widest = max(
            (max(-grid.lowest, grid.highest) for grid in (each.specification.levels for each in known)), default=0
        )
        least = next(
            least for least in range(MIN_ACCUMULATOR_BITS, 64) if largest_sum(least) - largest_bias(least) >= widest
        )
        if bits < least:
            rule = f"at least {least} with inputs up to {widest}"
            advice = "fewer cannot hold a product and the bias; give the input fewer bits"
            raise invalid(owner, "bits", rule, bits, advice)

    def check(self, owner: str, layer: Any, has_bias: bool, quantizers: Mapping[Any, Any]) -> None:
        """Check that the sums of a layer can lie on this grid.

        Raises:
            QuantizerError: the weights are not on one power-of-two grid, or the layer lacks the bias that the grid has.
        """
        if self.bias and not has_bias:
            advice = "write AccumulatorGrid(..., bias=False)"
            raise invalid(owner, "accumulator", "one without a bias", type(layer).__name__, advice)
        if len(quantizers) != 1 or not all(map(self.fits, quantizers.values())):
            rule = "one power-of-two quantizer with accumulator"
            advice = (
                "leave accumulator out, or quantize the weight by a power-of-two quantizer (a limit takes no table)"
            )
            raise invalid(owner, "weights_quantizers", rule, quantizers, advice)
        if self.bits is not None and self.axis(next(iter(quantizers.values()))) is None:
            advice = "give AccumulatorGrid the axis of the weight for the output channels"
            raise invalid(owner, "channel_axis", "known where bits are limited", None, advice)

    def with_inputs(self, inputs: Any) -> AccumulatorGrid:
        """The same grid for other inputs."""
        return AccumulatorGrid(inputs, self.bits, self.channel_axis, self.bias)

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest level of any input."""
        grids = [each.specification.levels for each in self.inputs]
        return min(grid.lowest for grid in grids), max(grid.highest for grid in grids)

    def axis(self, quantizer: RangeQuantizer) -> int | None:
        """The axis of the weight for the output channels; None if it is unknown."""
        given = self.channel_axis
        return quantizer.specification.channel_axis if given is None else given

    def fits(self, quantizer: Any) -> bool:
        """Whether a quantizer of weights puts products on the grid, and weights can be kept within the bits."""
        limited = self.bits is not None
        return is_power_of_two(quantizer) and not (limited and quantizer.specification.method in TABLED)

    def always_holds(self, quantizer: RangeQuantizer, count: int) -> bool:
        """Whether any ``count`` weights of a channel stay within the bits, so that no limit is needed."""
        levels, bits = quantizer.specification.grid, self.bits or MAX_ACCUMULATOR_BITS
        largest = count * max(-levels.lowest, levels.highest)
        widest = max(-self.levels[0], self.levels[1])
        room = largest_sum(bits) - (largest_bias(bits) if self.bias else 0)
        return largest < 2**24 and largest * widest * (1 + 2**-20) <= room  # as float32 decides it, too

    @property
    def largest_bias(self) -> int:
        """The largest bias in finest input steps: half of a limited accumulator, else what 32 bits hold."""
        return LARGEST_BIAS if self.bits is None else largest_bias(self.bits)

    def finest_of(self, coarsest: Any, pick: Callable[[Any, Any], Any]) -> Any:
        """The finest Δ_x over the coarsest if a limited bias needs it, else None."""
        several = self.bits is not None and len(self.inputs) > 1
        return self.input_step(pick) / coarsest if several else None

    def room(self, bias: Any) -> Any:
        """The range of the accumulator left beside a bias of this magnitude, in steps."""
        return largest_sum(self.bits or MAX_ACCUMULATOR_BITS) - bias

    def input_step(self, pick: Callable[[Any, Any], Any]) -> Any:
        """Δ_x; ``pick`` chooses of two numbers or tensors: the larger for the coarsest, the smaller for the finest."""
        return reduce(pick, (each.step() if isinstance(each, RangeQuantizer) else each for each in self.inputs))


def is_power_of_two(quantizer: Any) -> bool:
    """Whether it is an enabled quantizer whose step is a power of two."""
    return isinstance(quantizer, RangeQuantizer) and quantizer.specification.power_of_two and quantizer.enabled


def largest_bias(bits: int) -> int:
    """In steps: half of what the accumulator holds, so that the weights have the other half.

    Examples:
        >>> largest_bias(24)
        4194304
    """
    return int(2 ** (bits - 2))


def largest_sum(bits: int) -> int:
    """The largest sum that ``bits`` of two's complement hold; beyond 24, less the rounding of float32.

    Examples:
        >>> largest_sum(16), largest_sum(32)
        (32767, 2147482624)
    """
    return 2 ** (bits - 1) - (1 if bits <= 24 else 2 ** (bits - 22))


def rounded_bias(ops: ArrayOps, bias: Any, step: Any, finest: Any, largest: float) -> Any:
    """round(b/Δ)·Δ, halves to even, clipped to the accumulator; exact, because Δ is a power of two.

    Args:
        ops: The array library.
        bias: b.
        step: Δ, the product of Δ_w and the coarsest Δ_x.
        finest: The finest Δ_x over the coarsest; None where they are one.
        largest: The largest |b| in finest steps.

    Examples:
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> bias, step = np.float32([0.3, -0.375, 1e12]), np.float32([0.25, 0.25, 1.0])
        >>> rounded_bias(NUMPY_OPS, bias, step, None, LARGEST_BIAS).tolist()
        [0.25, -0.5, 2147483520.0]
    """
    limit = _bias_limit(ops, finest, largest)
    levels = ops.round(bias / step)
    levels = ops.where(levels < limit, levels, limit)
    return ops.where(levels > -limit, levels, -limit) * step


def bias_passes(ops: ArrayOps, bias: Any, step: Any, finest: Any, largest: float) -> Any:
    """Whether the gradient of a bias passes straight through the rounding: where nothing is clipped.

    Examples:
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> bias_passes(NUMPY_OPS, np.float32([0.3, 1e12]), np.float32([1, 1]), None, LARGEST_BIAS).tolist()
        [True, False]
    """
    limit, levels = _bias_limit(ops, finest, largest), bias / step
    return (levels <= limit) & (levels >= -limit)


def _bias_limit(ops: ArrayOps, finest: Any, largest: float) -> Any:
    """The largest bias in coarsest steps; none where not one of them fits."""
    if finest is None:
        return float(largest)
    steps = finest * float(largest)
    return ops.where(steps >= 1, steps, 0.0)


def limited(ops: ArrayOps, levels: Any, room: Any, widest: int, signed: bool) -> tuple[Any, Any]:
    """Levels of weights whose products with any input, and the sums of any of them, stay within ``room``.

    Of inputs without levels below zero, positive and negative weights make sums of their own: each half is limited
    alone, which leaves the weights twice the room (A2Q+ has it by weights of mean zero; Colbert et al. 2024,
    arXiv 2401.10432). Of signed inputs, all weights are limited together. Where round(v) exceeds the room,
    round(α·v) takes its place, with the largest multiple α of 2^-12 that fits.

    Args:
        ops: The array library.
        levels: v = w/Δ_w, clipped to the grid, of shape (channels, weights of one channel).
        room: Range of the accumulator left beside the bias, in steps, of shape (channels,).
        widest: The largest magnitude of an input, in levels.
        signed: Whether inputs have levels below zero.

    Returns:
        The levels, and whether they are others than round(v), of shape (channels,).

    Examples:
        >>> from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
        >>> levels, shrunk = limited(NUMPY_OPS, np.float32([[4.2, -3, 1], [1, 1, 0]]), np.float32([60, 60]), 15, False)
        >>> levels.tolist(), shrunk.tolist()
        ([[3.0, -3.0, 1.0], [1.0, 1.0, 0.0]], [True, False])
    """
    above, below = ops.where(levels > 0, levels, 0.0), ops.where(levels < 0, -levels, 0.0)
    if signed:
        factor = _factor(ops, above + below, room, widest)
        return ops.round(levels * factor[:, None]), factor < 1
    up, down = _factor(ops, above, room, widest), _factor(ops, below, room, widest)
    return ops.round(levels * ops.where(levels > 0, up[:, None], down[:, None])), (up < 1) | (down < 1)


def _factor(ops: ArrayOps, sizes: Any, room: Any, widest: int) -> Any:
    """The largest α <= 1 with which the rounded sizes of each channel fit; integers that float32 holds decide."""

    def fits(factor: Any) -> Any:
        return ops.sum(ops.round(sizes * factor[:, None]), [1]) * widest <= room

    def search() -> Any:
        found = ops.where(whole, 1.0, 0.0)
        for halving in range(1, _HALVINGS + 1):
            larger = found + 2.0**-halving
            found = ops.where(fits(larger) & (larger <= 1.0), larger, found)
        return found

    one = room * 0.0 + 1.0
    whole = ops.sum(ops.round(sizes), [1]) * widest <= room
    return ops.shortcut(whole, one, search)


def worst_bits(levels: np.ndarray, bias: np.ndarray, lowest: int, highest: int) -> int:
    """Bits of two's complement that hold every sum, and every part of one, of a layer.

    Args:
        levels: Of the weights, of shape (channels, weights of one channel).
        bias: Its magnitude in steps, of shape (channels,).
        lowest: The lowest level of an input.
        highest: The highest.

    Examples:
        >>> worst_bits(np.array([[7, -8]]), np.array([100]), 0, 255)
        13
    """
    above, below = np.maximum(levels, 0).sum(axis=1), np.maximum(-levels, 0).sum(axis=1)
    return bits_of(above * lowest - below * highest - bias, above * highest - below * lowest + bias)


def bits_of(low: Any, high: Any) -> int:
    """Bits of the two's complement of the integers from low to high.

    Examples:
        >>> bits_of(-128, 127), bits_of(0, 255), bits_of(0, 0)
        (8, 9, 1)
    """
    low, high = int(np.min(low)), int(np.max(high))
    return 1 + max(high.bit_length() if high > 0 else 0, (-low - 1).bit_length() if low < 0 else 0)


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
