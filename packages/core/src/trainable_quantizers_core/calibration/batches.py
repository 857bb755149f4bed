"""Batches of data: the forms they may have, calibration's limit on them, and errors that show their shapes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from trainable_quantizers_core.errors import QuantizerError, invalid

Batch = TypeVar("Batch")

MAX_BATCHES = 1000
"""Ranges settle within tens of batches; a stream that repeats itself has no end."""


def at_most(batches: Iterable[Batch], limit: int | None, owner: str) -> Iterator[Batch]:
    """The batches up to a limit; warns if there are more.

    Args:
        batches: Any number of them, also without end.
        limit: How many to take; None for all.
        owner: The function that takes them, for the warning.

    Examples:
        >>> from itertools import count
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     print(list(at_most(count(), 2, "prepare")))
        [0, 1]
        >>> print(caught[0].message)
        prepare: calibration took the first 2 batches and left the others; pass fewer batches, tens are enough.
    """
    for number, batch in enumerate(batches):
        if number == limit:
            advice = "pass fewer batches, tens are enough"
            warnings.warn(
                f"{owner}: calibration took the first {limit} batches and left the others; {advice}.", stacklevel=2
            )
            return
        yield batch


@dataclass(frozen=True)
class Batches:
    """The forms in which users of a framework give data, and the words for these in errors.

    Args:
        tensors: Types of a single batch, beside dictionaries.
        tensor: Such a batch in words.
        named: A dictionary in words.
        loader: Source of batches in words, beside lists.

    Examples:
        >>> import numpy as np
        >>> arrays = Batches((np.ndarray,), "an array", "a dictionary of inputs", "a generator")
        >>> len(arrays.of(np.ones((3, 2)), "f")), arrays.first(iter("abc"), 2, "f", "data")[0]
        (1, ['a', 'b'])
        >>> arrays.in_words((np.ones((3, 2)), {"count": 3}))
        '(float64 array of shape (3, 2), {count: int})'
    """

    tensors: tuple[type, ...]
    tensor: str
    named: str
    loader: str

    def of(self, data: Any, owner: str, argument: str = "data") -> Iterable[Any]:
        """An iterable of batches, from one batch or an iterable of them.

        Raises:
            QuantizerError: neither.
        """
        if isinstance(data, (*self.tensors, Mapping)):
            return [data]
        if not isinstance(data, Iterable):
            advice = f"pass {self.loader} or a list of batches: a run shows what the model computes"
            raise invalid(owner, argument, "an iterable of batches", data, advice)
        return data

    def first(self, data: Any, count: int, owner: str, argument: str) -> tuple[list[Any], Any]:
        """The first batches, at most ``count``, and the data; an iterator is restored, so that it still gives these.

        Raises:
            QuantizerError: ``data`` is no iterable, or empty.
        """
        given = self.of(data, owner, argument)
        batches = iter(given)
        first = list(islice(batches, count))
        if not first:
            raise self.none(owner, argument, data)
        return first, chain(first, batches) if batches is given else given

    def none(self, owner: str, argument: str, data: Any) -> QuantizerError:
        """The error for data without a batch."""
        advice = f"an iterator that was used before is empty: pass a list or {self.loader}"
        return invalid(owner, argument, "at least one batch", data, advice)

    @contextmanager
    def explained(self, owner: str, argument: str, batch: Any, count: int = 0) -> Iterator[None]:
        """Turn anything that a model raises for a batch into an error that shows the batch.

        Raises:
            QuantizerError: the model raises something.
        """
        try:
            yield
        except Exception as error:  # anything that the user's model raises
            rule = f"batches that the model takes: {self.tensor}, a tuple of inputs, or {self.named}"
            advice = f"the model says: {type(error).__name__}: {error}"
            raise invalid(owner, argument, rule, self.in_words(batch), advice, f" in batch {count}") from error

    def in_words(self, batch: Any) -> str:
        """Types and shapes, where the values themselves would fill the screen."""
        if isinstance(batch, Mapping):
            return "{" + ", ".join(f"{key}: {self.in_words(value)}" for key, value in batch.items()) + "}"
        if isinstance(batch, (tuple, list)):
            return "(" + ", ".join(map(self.in_words, batch)) + ")"
        if hasattr(batch, "shape") and hasattr(batch, "dtype"):
            dtype = str(getattr(batch.dtype, "name", batch.dtype)).rpartition(".")[2]
            return f"{dtype} {self.tensor.rpartition(' ')[2]} of shape {tuple(batch.shape)}"
        return type(batch).__name__
