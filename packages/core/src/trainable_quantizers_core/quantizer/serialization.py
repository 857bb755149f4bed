"""Lossless JSON for configurations: arrays, enumerations, non-finite numbers and tuples included.

A value that JSON cannot hold becomes an object of one key that starts with ``$``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
from mct_quantizers import QuantizationMethod, QuantizationTarget

from trainable_quantizers_core.enums import RoundingRule, ThresholdDomain, TrainingMethod, VariableGroup
from trainable_quantizers_core.errors import invalid, nearest

_KNOWN = (QuantizationMethod, QuantizationTarget, RoundingRule, ThresholdDomain, TrainingMethod, VariableGroup)
_DTYPES = [np.dtype(code).name for code in "?bBhHiIqQefd"]
_ENUMS: dict[str, type[Enum]] = {enum.__name__: enum for enum in _KNOWN}
_CLASSES: dict[str, tuple[Any, Callable[[Any], Any]]] = {}


def register_class(tag: str, cls: type, restore: Callable[[Any], Any]) -> None:
    """Let configurations and options hold instances of a class and of its subclasses.

    Args:
        tag: Their key in JSON, with a leading ``$``.
        cls: Has ``to_dict``.
        restore: Makes an instance from the result of ``to_dict``.
    """
    _CLASSES[tag] = cls, restore


def register_enum(enum: type[Enum]) -> type[Enum]:
    """Let configurations and options hold members of an enumeration (a decorator).

    Raises:
        QuantizerError: another enumeration of that name is registered.

    Examples:
        >>> class Direction(Enum):
        ...     UP = 1
        >>> decode(encode(register_enum(Direction).UP)) is Direction.UP
        True
    """
    if _ENUMS.setdefault(enum.__name__, enum) is not enum:
        raise invalid("register_enum", "enum", "of a name that is not taken", enum, "rename it")
    return enum


def encode(value: Any) -> Any:
    """``value`` as JSON-compatible values.

    Raises:
        QuantizerError: a value of a type that could not be restored.

    Examples:
        >>> encode({"threshold": np.float32([1.0, 2.0])})
        {'threshold': {'$array': [1.0, 2.0], 'dtype': 'float32'}}
    """
    if isinstance(value, Enum):
        if _ENUMS.get(type(value).__name__) is type(value):
            return {"$enum": type(value).__name__, "name": value.name}
    elif value is None or isinstance(value, (bool, int, str)):
        return value
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        shape = {} if value.size else {"shape": list(value.shape)}  # nested lists hide the shape of an empty one
        return {"$array": encode(value.tolist()), "dtype": value.dtype.name, **shape}
    elif isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    elif isinstance(value, list):
        return [encode(item) for item in value]
    elif isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    elif isinstance(value, Mapping) and all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: encode(item) for key, item in value.items()}
    for tag, (cls, _) in _CLASSES.items():
        if isinstance(value, cls):
            return {tag: value.to_dict()}
    raise invalid(
        "encode",
        "value",
        "None, a number, a string, an array, a registered enumeration, a configuration, "
        "or a list, tuple or dictionary (string keys without a leading $) of these",
        value,
        "convert it, or register your enumeration with register_enum",
    )


def decode(value: Any) -> Any:
    """The value that ``encode`` was given.

    Raises:
        QuantizerError: a tag or an enumeration that is not registered.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {key: decode(item) for key, item in value.items()}
    if tag == "$array":
        if value["dtype"] not in _DTYPES:
            raise invalid("decode", "dtype", f"one of {', '.join(_DTYPES)}", value["dtype"], "the file is damaged")
        array = np.array(decode(value[tag]), dtype=value["dtype"])
        array = array.reshape(value.get("shape", array.shape))
        return array[()] if array.ndim == 0 else array
    if tag == "$float":
        return float(value[tag])
    if tag == "$tuple":
        return tuple(decode(item) for item in value[tag])
    if tag == "$enum":
        if not isinstance(value[tag], str) or value[tag] not in _ENUMS:
            advice = f"import the module that registers it ({nearest(value[tag], _ENUMS)})"
            raise invalid("decode", "enumeration", "registered", value[tag], advice)
        return _ENUMS[value[tag]][value["name"]]
    if tag in _CLASSES:
        return _CLASSES[tag][1](value[tag])
    raise invalid("decode", "tag", "one that encode writes", tag, "was the file written by a newer version?")
