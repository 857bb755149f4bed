"""Atomic writing of files, and imports of optional packages."""

from __future__ import annotations

import ctypes
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: after any failure it is either the old one or complete.

    Raises:
        OSError: the folder does not exist, or is not writable.
    """
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.chmod(file.name, path.stat().st_mode if path.exists() else 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def put_in_place(written: Path, path: Path) -> None:
    """Move a file or a folder to a path. An older folder there, or an older file of a folder, comes back in its place.

    Folders change places in one step where the system can do that: Linux, on most file systems. Elsewhere the older one
    moves aside first, so that for a moment there is none; it comes back if the new one cannot take its place.
    """
    if not path.exists() or not (path.is_dir() or written.is_dir()):
        os.replace(written, path)
    elif not _exchange(written, path):
        aside = written.with_name(f"{written.name}.before")
        os.replace(path, aside)
        try:
            os.replace(written, path)
        except BaseException:
            os.replace(aside, path)
            raise
        os.replace(aside, written)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the system gave each of two paths what was at the other."""
    rename = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def optional(module: str, extra: str, distribution: str = "trainable-quantizers-core") -> Any:
    """Import a module that an extra of one of the project's distributions installs.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        install = f'pip install "{distribution}[{extra}]"'
        raise ImportError(f"{module.partition('.')[0]} is needed here, but not installed: {install}") from error
