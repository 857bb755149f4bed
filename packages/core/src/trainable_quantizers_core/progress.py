"""A progress bar, shown if rich is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, shown: bool) -> Iterator[Item]:
    """The items, with a progress bar in the terminal if ``shown`` and if rich is installed.

    Examples:
        >>> list(track([1, 2], "counting", shown=False))
        [1, 2]
    """
    if not shown or find_spec("rich") is None:
        yield from items
        return
    from rich.progress import track as bar

    yield from bar(items, description, transient=True)
