"""The one exception of the project, and the one form of its messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class QuantizerError(ValueError):
    """Something a caller handed in cannot work; the message names it, its value and the way out."""


def invalid(owner: str, argument: str, rule: str, value: Any, advice: str, where: str = "") -> QuantizerError:
    """The error ``{owner}: {argument} must be {rule}, got {value}{where}; {advice}.``, ready to raise.

    Example:
        >>> str(invalid("Config", "n_bits", "an integer", "8", "write 8 without quotes"))
        "Config: n_bits must be an integer, got '8'; write 8 without quotes."
    """
    shown = repr(value)
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return QuantizerError(f"{owner}: {argument} must be {rule}, got {shown}{where}; {advice}.")


def nearest(word: object, known: Iterable[str]) -> str:
    """Advice for a word that is not among the known ones: the nearest of them, or all (of many, the first 20).

    Example:
        >>> nearest("treshold", ["threshold", "is_signed"])
        "did you mean 'threshold'?"
    """
    words = list(known)
    held = [each for each in words if len(str(word)) > 2 and f"_{word}" in each]  # num_bits for bits
    close = held or get_close_matches(str(word), words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(words) - 20} more" if len(words) > 20 else ""
    return f"known: {', '.join(words[:20]) or 'none'}{more}"
