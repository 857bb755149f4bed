"""Reading of untrusted data: any fault becomes one typed error, in bounded time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import QuantizerError, invalid

MAX_DEPTH = 64
MAX_VALUES = 2**20
MAX_INTEGER = 2**64
_WRONG = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


@contextmanager
def reading(owner: str, argument: str, data: Any) -> Iterator[None]:
    """Turn any failure while data are read into an error that says what was read, and why it failed.

    Args:
        owner: Who reads, for messages.
        argument: Name of the data, for messages.
        data: The data; their size is checked first.

    Raises:
        QuantizerError: data that are too deep or too large, or anything that a reader of damaged data raises.

    Examples:
        >>> with reading("Recipe", "weights", {}):
        ...     {}["num_bits"]
        Traceback (most recent call last):
        trainable_quantizers_core.errors.QuantizerError: Recipe: weights must be as this package writes it, got {}; ...
    """
    check_size(owner, argument, data)
    try:
        yield
    except QuantizerError:
        raise
    except _WRONG as error:
        advice = f"it is damaged: {type(error).__name__}: {str(error)[:200]}"
        raise invalid(owner, argument, "as this package writes it", data, advice) from error


def check_size(owner: str, argument: str, data: Any) -> None:
    """Refuse data that are larger than anything this project writes.

    Raises:
        QuantizerError: more than 64 levels or 2^20 values, or an integer beyond 64 bits.
    """
    waiting, count = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += value.size if isinstance(value, np.ndarray) else 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            rule = f"at most {MAX_DEPTH} levels deep and of {MAX_VALUES} values"
            raise invalid(owner, argument, rule, data, "nothing of this package is larger")
        if isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
            raise invalid(owner, argument, "of integers of at most 64 bits", value, "nothing here is larger")
        if isinstance(value, Mapping):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, (list, tuple)):
            waiting += [(each, depth + 1) for each in value]


def parsed_json(owner: str, text: Any) -> Any:
    """The content of a JSON text.

    Raises:
        QuantizerError: not a text, or not valid JSON.
    """
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(owner, "text", "JSON", text, f"the parser says: {str(error)[:200]}") from error
