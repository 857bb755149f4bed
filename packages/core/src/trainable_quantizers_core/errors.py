"""The project's one exception class and the common form of its messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar

Member = TypeVar("Member", bound=Enum)


class QuantizerError(ValueError):
    """An argument, model or file that cannot be used; the message names it, its value and what to do.

    Examples:
        >>> from trainable_quantizers_core import WeightsScheme
        >>> try:
        ...     WeightsScheme(num_bits=1)
        ... except QuantizerError as error:
        ...     print(error)
        WeightsScheme: num_bits must be an integer in 2..16, got 1; these are the widths that the inferable quantizers \
deploy.
    """

    __init__ = Exception.__init__  # so that TensorFlow's autograph can re-raise it


def invalid(owner: str, argument: str, rule: str, value: Any, advice: str, where: str = "") -> QuantizerError:
    """The error ``{owner}: {argument} must be {rule}, got {value}{where}; {advice}.``, ready to raise.

    Examples:
        >>> str(invalid("Config", "n_bits", "an integer", "8", "write 8 without quotes"))
        "Config: n_bits must be an integer, got '8'; write 8 without quotes."
    """
    return QuantizerError(f"{owner}: {argument} must be {rule}, got {_shown(value)}{where}; {advice}.")


def _shown(value: Any) -> str:
    """The value in at most 200 characters, even if it is deep, large or cannot be represented."""
    try:
        large = isinstance(value, (str, bytes, list, tuple, dict)) and len(value) > 2_000
        text = reprlib.repr(value) if large else repr(value)
    except Exception:  # of anything that the caller passed
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else text[:200] + "..."


def member(owner: str, argument: str, kind: type[Member], value: Any) -> Member:
    """The member of an enumeration of strings, from itself or from its string.

    Raises:
        QuantizerError: there is no such member.

    Examples:
        >>> from trainable_quantizers_core.enums import RoundingRule
        >>> member("to_integer", "rounding", RoundingRule, "half_up").name
        'HALF_UP'
    """
    known = [each.value for each in kind]
    if value not in known:
        raise invalid(owner, argument, f"one of {', '.join(known)}", value, nearest(value, known))
    return kind(value)


def nearest(word: object, known: Iterable[str]) -> str:
    """Advice for an unknown word: the nearest known one, or all of them (the first 20 of many).

    Examples:
        >>> nearest("treshold", ["threshold", "is_signed"])
        "did you mean 'threshold'?"
    """
    words, given = list(known), word[:100] if isinstance(word, str) else _shown(word)
    held = [each for each in words if len(given) > 2 and f"_{given}" in each]  # num_bits for bits
    close = held or get_close_matches(given, words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(words) - 20} more" if len(words) > 20 else ""
    return f"known: {', '.join(words[:20]) or 'none'}{more}"
