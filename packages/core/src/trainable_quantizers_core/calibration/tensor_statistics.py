"""Statistics of an activation in constant memory: a few numbers and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.serialization import decode, encode
from trainable_quantizers_core.reading import reading

_BINS = 2**13
_BLOCK = 2**17  # values that are processed together: intermediate results stay in the cache
_LOWEST_EXPONENT = -148  # that of the smallest float32 as frexp gives it; the largest has 128
_EXPONENTS = 277
_MANTISSA_BITS = 24
_STANDS_FOR_INFINITY = 1e30
_GOLDEN_RATIO = 0.6180339887498949


def float_array(owner: str, array: Any) -> np.ndarray:
    """``array`` in numpy, of any type that becomes float32 by rounding alone.

    Raises:
        QuantizerError: something that is not numbers.
    """
    try:
        found = np.asarray(array)
        problem = "" if np.can_cast(found.dtype, np.float32, "same_kind") else f"{found.dtype} is not float"
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor that requires a gradient
        problem = str(error)
    if problem:
        advice = f"pass the values of a tensor, detached and on the CPU ({problem})"
        raise invalid(owner, "array", "of floats", type(array).__name__, advice)
    return found


def as_float32(array: np.ndarray) -> np.ndarray:
    """A copy in float32; values that are too large become infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


class TensorStatistics:
    """Count, extremes, mean magnitude and a histogram of all values seen so far, in constant memory.

    All values are taken as float32; NaN and infinity are counted and otherwise ignored. Either side of zero
    has 8192 bins whose width is the smallest power of two that reaches the largest magnitude so far. When
    that grows, bins merge in pairs, which is exact; the mean is summed in integers. So the state depends on
    the values alone, not on their order nor on how they came in batches, and parts merge without loss.

    Attributes:
        count: Finite values.
        non_finite: Values that are NaN or infinite.
        infinite: Values that are infinite.
        zeros: Values that are zero.
        minimum: Smallest finite value; infinity before the first.
        maximum: Largest finite value; minus infinity before the first.

    Examples:
        >>> statistics = TensorStatistics()
        >>> statistics.update(np.float32([[-1.0, 0.0], [3.0, np.nan]]))
        >>> statistics
        TensorStatistics(count=3, non_finite=1, zeros=1, minimum=-1.0, maximum=3.0)
        >>> round(statistics.mean_magnitude, 3)
        1.333
    """

    def __init__(self) -> None:
        self.count = 0
        self.non_finite = 0
        self.infinite = 0
        self.zeros = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._exponent = _LOWEST_EXPONENT  # magnitudes are below 2**exponent
        self._histogram = np.zeros((2, _BINS), np.int64)  # above and below zero, by magnitude; zeros are in neither
        self._mantissas = np.zeros(_EXPONENTS, np.int64)  # sums of integer mantissas by exponent

    def __repr__(self) -> str:
        shown = ("count", "non_finite", "zeros", "minimum", "maximum")
        return f"TensorStatistics({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorStatistics) and all(
            np.array_equal(value, vars(other)[name]) for name, value in vars(self).items()
        )

    __hash__ = None  # type: ignore[assignment]

    def update(self, array: Any) -> None:
        """Add the values of an array of any shape.

        Raises:
            QuantizerError: something that is not numbers.
        """
        values = float_array("TensorStatistics.update", array).reshape(-1)
        for start in range(0, values.size, _BLOCK):
            self._add(as_float32(values[start : start + _BLOCK]))

    def _add(self, values: np.ndarray) -> None:
        finite = values[np.isfinite(values)]
        self.non_finite += values.size - finite.size
        self.infinite += int(np.isinf(values).sum())
        if not finite.size:
            return
        self.count += finite.size
        self.minimum = min(self.minimum, float(finite.min()) + 0.0)  # + 0.0 makes -0.0 the 0.0 that equals it
        self.maximum = max(self.maximum, float(finite.max()) + 0.0)
        nonzero = finite[finite != 0]
        self.zeros += finite.size - nonzero.size
        if not nonzero.size:
            return
        magnitudes = np.abs(nonzero)
        mantissas, exponents = np.frexp(magnitudes)
        sums = np.bincount(exponents - _LOWEST_EXPONENT, np.ldexp(mantissas, _MANTISSA_BITS), _EXPONENTS)
        self._mantissas += sums.astype(np.int64)  # exact: a block sums to less than 2**53
        self._widen(int(exponents.max()))
        bins = magnitudes * np.float64(_BINS * 2.0**-self._exponent)
        places = bins.astype(np.int64) + _BINS * (nonzero < 0)
        self._histogram += np.bincount(places, minlength=2 * _BINS).reshape(2, _BINS)

    def _widen(self, exponent: int) -> None:
        doublings = min(exponent - self._exponent, _BINS.bit_length() - 1)  # then everything is in the first bin
        if doublings > 0:
            merged = self._histogram.reshape(2, _BINS >> doublings, -1).sum(axis=2)
            self._histogram = np.pad(merged, ((0, 0), (0, _BINS - merged.shape[1])))
        self._exponent = max(self._exponent, exponent)

    def merge(self, other: TensorStatistics) -> None:
        """Add the values that another object has seen."""
        widened = deepcopy(other)
        widened._widen(self._exponent)
        self._widen(widened._exponent)
        self.count += other.count
        self.non_finite += other.non_finite
        self.infinite += other.infinite
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self._histogram += widened._histogram
        self._mantissas += other._mantissas

    @property
    def unbounded(self) -> bool:
        """Whether there are infinities, or magnitudes from 1e30 on that stand for them, as in attention masks."""
        return self.infinite > 0 or self.max_magnitude >= _STANDS_FOR_INFINITY

    @property
    def max_magnitude(self) -> float:
        """max|x|; 0 before the first value."""
        return max(-self.minimum, self.maximum, 0.0)

    @property
    def mean_magnitude(self) -> float:
        """mean|x|, correctly rounded; 0 before the first value."""
        total = sum(int(value) << place for place, value in enumerate(self._mantissas))
        return math.ldexp(total / max(self.count, 1), _LOWEST_EXPONENT - _MANTISSA_BITS)

    def quantile(self, fraction: float, magnitudes: bool = False) -> float:
        """The value that ``fraction`` of the values (or of their magnitudes) do not exceed, to within a bin.

        Examples:
            >>> statistics = TensorStatistics()
            >>> statistics.update(np.linspace(-1, 1, 2001))
            >>> round(statistics.quantile(0.75), 2), round(statistics.quantile(0.75, magnitudes=True), 2)
            (0.5, 0.75)
        """
        lower, upper, counts, _ = self._cells(magnitudes)
        below = np.cumsum(counts)
        wanted = fraction * self.count
        cell = min(int(np.searchsorted(below, wanted)), counts.size - 1)
        inside = 1 - (below[cell] - wanted) / counts[cell]
        return float(lower[cell] + inside * (upper[cell] - lower[cell]))

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Values that stand for those seen, and how many each stands for; zeros left out.

        One point per bin, at a fraction of its width that differs from bin to bin without a period (multiples of
        the golden ratio). Centres would not do: where the step of a grid is about as wide as a bin they all have
        the same rounding error, so that an expected error taken over them is wrong.
        """
        lower, upper, counts, places = self._cells()
        values = lower + (places * _GOLDEN_RATIO) % 1 * (upper - lower)
        kept = values != 0
        return values[kept].astype(np.float32), counts[kept]

    def _cells(self, magnitudes: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ends, counts and places of the bins that hold something, ascending; zeros are one of width 0."""
        above, below = self._histogram
        if magnitudes:
            above, below = above + below, np.zeros_like(below)
        edges = np.ldexp(np.arange(_BINS + 1) / _BINS, self._exponent)
        counts = np.concatenate([below[::-1], [self.zeros], above])
        lower = np.concatenate([-edges[:0:-1], [0.0], edges[:-1]])
        upper = np.concatenate([-edges[-2::-1], [0.0], edges[1:]])
        ends = (0.0, self.max_magnitude) if magnitudes else (self.minimum, self.maximum)
        (places,) = counts.nonzero()
        return np.clip(lower[places], *ends), np.clip(upper[places], *ends), counts[places], places

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON-compatible values."""
        return {name: encode(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorStatistics:
        """The statistics restored from the result of ``to_dict``.

        Raises:
            QuantizerError: unknown or missing keys.
        """
        with reading("TensorStatistics.from_dict", "data", data):
            return cls._from_dict(data)

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> TensorStatistics:
        statistics = cls()
        known = vars(statistics)
        for key in {**data, **known}:
            if key not in data or key not in known:
                rule = "present" if key in known else "one that to_dict writes"
                raise invalid(
                    "TensorStatistics.from_dict", "key", rule, key, nearest(key, data if key in known else known)
                )
        read = {key: decode(value) for key, value in data.items()}
        for key, value in known.items():
            given = read[key]
            same = given.shape == value.shape if isinstance(value, np.ndarray) else not isinstance(given, np.ndarray)
            if type(given) is not type(value) or not same:
                rule = f"a {type(value).__name__} as to_dict writes it"
                raise invalid("TensorStatistics.from_dict", key, rule, given, "it is damaged")
        known.update(read)
        return statistics
