"""The file format of programs: safetensors, with constants as tensors and the rest as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.files import optional, write_atomically
from trainable_quantizers_core.integer.step import Step, Value
from trainable_quantizers_core.reading import parsed_json, reading

FORMAT = "trainable-quantizers program 1"
_PER_CHANNEL = ("exponent", "scale")


def write(path: str | os.PathLike[str], parts: Mapping[str, Any]) -> None:
    """Write the parts of a program by name, atomically.

    Raises:
        ImportError: safetensors is not installed; the message says how to install it.
    """
    safetensors = optional("safetensors.numpy", "portability")
    described = {
        **parts,
        "values": [asdict(value) for value in parts["values"]],
        "steps": [asdict(step) for step in parts["steps"]],
    }
    constants = {name: np.ascontiguousarray(value) for name, value in described.pop("constants").items()}
    metadata = {"format": FORMAT, "program": json.dumps(described)}
    write_atomically(path, safetensors.save(constants, metadata))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parts that ``write`` wrote.

    Raises:
        QuantizerError: the file holds no program.
        ImportError: safetensors is not installed; the message says how to install it.
    """
    safetensors = optional("safetensors", "portability")
    try:
        with safetensors.safe_open(str(path), "np") as file:
            metadata = file.metadata() or {}
            constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary
    except safetensors.SafetensorError as error:
        raise invalid("Program.load", "path", "a program", str(path), f"the file says: {error}") from error
    if metadata.get("format") != FORMAT:
        advice = "pass a file that Program.save wrote"
        raise invalid("Program.load", "path", f"a file of format {FORMAT!r}", metadata.get("format"), advice)
    found = parsed_json("Program.load", metadata.get("program"))
    with reading("Program.load", "program", found):
        values = [
            Value(**{**each, "shape": tuple(each["shape"]), **{key: _tuple(each[key]) for key in _PER_CHANNEL}})
            for each in found["values"]
        ]
        steps = [Step(**{**each, "inputs": tuple(each["inputs"])}) for each in found["steps"]]
        rest = {key: found[key] for key in ("inputs", "outputs", "notes")}
        return {"values": values, "steps": steps, "constants": constants, **rest}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
