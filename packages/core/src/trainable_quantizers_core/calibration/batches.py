"""How many batches calibration takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
        prepare: calibration took the first 2 batches of more; pass fewer batches, tens are enough.
    """
    for number, batch in enumerate(batches):
        if number == limit:
            advice = "pass fewer batches, tens are enough"
            warnings.warn(f"{owner}: calibration took the first {limit} batches of more; {advice}.", stacklevel=2)
            return
        yield batch
