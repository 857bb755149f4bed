"""The base class of a report's parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.serialization import decode, encode
from trainable_quantizers_core.reading import parsed_json, reading

Given = TypeVar("Given", bound="Part")


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a report: dict, JSON, and comparison by value."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-compatible values."""
        return {f.name: encode(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls: type[Given], data: Mapping[str, Any]) -> Given:
        """The part that ``to_dict`` was called on.

        Raises:
            QuantizerError: unknown or missing keys.
        """
        with reading(cls.__name__, "data", data):
            return cls._from_dict(data)

    @classmethod
    def _from_dict(cls: type[Given], data: Mapping[str, Any]) -> Given:
        known = {f.name: f.default is f.default_factory for f in dataclasses.fields(cls)}  # both MISSING: required
        for key in data:
            if key not in known:
                raise invalid(cls.__name__, "key", "a field of the report", key, nearest(key, known))
        for key, required in known.items():
            if required and key not in data:
                raise invalid(cls.__name__, key, "present", list(data), "add the missing key")
        return cls(**{key: decode(value) for key, value in data.items()})

    @classmethod
    def from_json(cls: type[Given], text: str) -> Given:
        """The part that ``to_json`` was called on."""
        return cls.from_dict(parsed_json(cls.__name__, text))
