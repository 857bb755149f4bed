"""The base class of configurations: comparison by value, and a round trip through dict and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from mct_quantizers.common.get_all_subclasses import get_all_subclasses

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.serialization import decode, encode, register_class
from trainable_quantizers_core.reading import parsed_json, reading

Config = TypeVar("Config", bound="TrainableQuantizerConfig")


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal, arrays, dictionaries and sequences element by element."""
    if isinstance(one, (np.ndarray, np.generic)) or isinstance(other, (np.ndarray, np.generic)):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


@dataclass(frozen=True, eq=False)
class TrainableQuantizerConfig:
    """The base class of configurations: comparison by value, and a round trip through dict and JSON.

    Instances are immutable, so a valid one stays valid; ``dataclasses.replace`` makes a changed copy.

    Examples:
        >>> from trainable_quantizers_core import TrainableQuantizerCandidateConfig
        >>> config = TrainableQuantizerCandidateConfig(4, {"threshold": np.float32([1.0, 2.0])})
        >>> config == TrainableQuantizerCandidateConfig(4, {"threshold": np.float32([1.0, 2.0])})
        True
        >>> TrainableQuantizerConfig.from_dict(config.to_dict()) == config
        True
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _equal(vars(self), vars(other))

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-compatible values, with the name of the class under ``type``.

        Raises:
            QuantizerError: a value that could not be restored, or an attribute that is no field.
        """
        fields = {f.name: encode(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for name in vars(self):
            if name not in fields:
                advice = "make the subclass a frozen dataclass (eq=False), so that what it adds is restored"
                raise invalid(type(self).__name__, "attribute", "a field", name, advice)
        return {"type": type(self).__name__, **fields}

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls: type[Config], data: Mapping[str, Any]) -> Config:
        """The configuration restored from the result of ``to_dict``.

        Raises:
            QuantizerError: unknown or missing keys, or a ``type`` that is not ``cls`` or a subclass of it.
        """
        config = config_from_dict(data)
        if not isinstance(config, cls):
            raise invalid(cls.__name__, "type", f"{cls.__name__} or a subclass", data["type"], "use its own from_dict")
        return config

    @classmethod
    def from_json(cls: type[Config], text: str) -> Config:
        """The configuration restored from the result of ``to_json``."""
        return cls.from_dict(parsed_json(cls.__name__, text))

    def _check(self, name: str, accepted: bool, rule: str, advice: str) -> None:
        if not accepted:
            raise invalid(type(self).__name__, name, rule, getattr(self, name), advice)

    def _check_bits(self, name: str) -> None:
        bits = getattr(self, name)
        positive = isinstance(bits, (int, np.integer)) and not isinstance(bits, bool) and bits > 0
        self._check(name, bool(positive), "a positive integer", "give the number of bits as a plain integer, such as 8")
        object.__setattr__(self, name, int(bits))

    def _check_params(self, name: str) -> None:
        params = getattr(self, name)
        accepted = isinstance(params, Mapping) and all(isinstance(key, str) for key in params)
        self._check(name, accepted, "a dictionary with string keys", "write for example {THRESHOLD: 2.0}")
        object.__setattr__(self, name, dict(params))

    def _check_flag(self, name: str) -> None:
        self._check(name, isinstance(getattr(self, name), (bool, np.bool_)), "True or False", "give a bool")
        object.__setattr__(self, name, bool(getattr(self, name)))


def config_from_dict(data: Mapping[str, Any]) -> TrainableQuantizerConfig:
    """The configuration of any class that ``to_dict`` was called on.

    Raises:
        QuantizerError: not a dictionary with a known ``type``, or unknown or missing keys.
    """
    with reading("config_from_dict", "data", data):
        return _from_dict(data)


def _from_dict(data: Mapping[str, Any]) -> TrainableQuantizerConfig:
    classes = {cls.__name__: cls for cls in get_all_subclasses(TrainableQuantizerConfig)}
    name = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or name not in classes:
        raise invalid("config_from_dict", "type", "the name of a configuration class", name, nearest(name, classes))
    cls = classes[name]
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {key: value for key, value in data.items() if key != "type"}
    for key in values:
        if key not in known:
            raise invalid(cls.__name__, "key", "a field of the class", key, nearest(key, known))
    for key, spec in known.items():
        if key not in values and spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise invalid(cls.__name__, key, "present", list(values), "add the missing key")
    return cls(**{key: decode(value) for key, value in values.items()})


register_class("$config", TrainableQuantizerConfig, config_from_dict)
