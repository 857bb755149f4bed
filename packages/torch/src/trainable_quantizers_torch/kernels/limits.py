"""Size limits that select how a tensor on a CPU is processed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass
class Limits:
    """Sizes in elements, and whether to compile.

    Args:
        small: Up to here the number of calls counts, not what they read and write.
        block: Five float32 blocks of this size fit into a common last-level cache, and one gives 16 cores work.
        thread: From here on it pays to give a part to another thread.
        row: Shorter rows of one channel are not worth a compiled loop of their own.
        numba: Whether numba compiles the operation: where it is installed.
    """

    small: int = 2**12
    block: int = 2**19
    thread: int = 2**16
    row: int = 32
    numba: bool = find_spec("numba") is not None


limits = Limits()


@contextmanager
def limited(**changes: int) -> Iterator[None]:
    """Change the limits inside the context, so that tests reach every code path with few elements."""
    before = vars(limits).copy()
    vars(limits).update(changes)
    try:
        yield
    finally:
        vars(limits).update(before)
