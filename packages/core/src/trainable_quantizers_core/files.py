"""Writing files, and what only some users have installed."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that is, whatever happens, either the old one or complete.

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


def optional(module: str, extra: str, distribution: str = "trainable-quantizers-core") -> Any:
    """A module that an extra of a distribution of the project brings.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        return import_module(module)
    except ImportError as error:
        install = f'pip install "{distribution}[{extra}]"'
        raise ImportError(f"{module.partition('.')[0]} is needed here and not installed: {install}") from error
