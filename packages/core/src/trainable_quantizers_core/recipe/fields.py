"""Reading and writing the fields of a recipe's schemes: words, numbers and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from numbers import Integral, Real
from typing import Any

from mct_quantizers import QuantizationMethod

from trainable_quantizers_core.enums import (
    BiasGrid,
    CalibrationMethod,
    Granularity,
    RoundingRule,
    ThresholdDomain,
    TrainingMethod,
)
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.accumulator import MAX_ACCUMULATOR_BITS, MIN_ACCUMULATOR_BITS
from trainable_quantizers_core.quantizer.config import keeps_sign
from trainable_quantizers_core.quantizer.grid import MAX_BITS, MIN_BITS
from trainable_quantizers_core.quantizer.oscillations import Oscillations
from trainable_quantizers_core.quantizer.schedule import QuantizationSchedule

METHODS: dict[str, Enum] = {
    "power_of_two": QuantizationMethod.POWER_OF_TWO,
    "symmetric": QuantizationMethod.SYMMETRIC,
    "uniform": QuantizationMethod.UNIFORM,
    "lut_power_of_two": QuantizationMethod.LUT_POT_QUANTIZER,
    "lut_symmetric": QuantizationMethod.LUT_SYM_QUANTIZER,
}
"""The methods by their words in recipes."""

_CHOICES: dict[str, dict[str, Enum]] = {
    "method": METHODS,
    "granularity": {member.value: member for member in Granularity},
    "training_method": {member.value.lower(): member for member in TrainingMethod},
    "calibration": {member.value: member for member in CalibrationMethod},
    "bias": {member.value: member for member in BiasGrid},
    "rounding": {member.value: member for member in RoundingRule},
    "threshold_domain": {member.value: member for member in ThresholdDomain},
}

_WIDTHS = {
    "num_bits": (MIN_BITS, MAX_BITS, "these are the widths that the inferable quantizers deploy"),
    "accumulator_bits": (
        MIN_ACCUMULATOR_BITS,
        MAX_ACCUMULATOR_BITS,
        "it is the width of the register that adds products",
    ),
}


def read_fields(scheme: type[Any], given: Any, where: str = "") -> dict[str, Any]:
    """The given fields of a scheme, with words turned into enumeration members.

    Raises:
        QuantizerError: unknown keys or values, found ``where``.

    Examples:
        >>> from trainable_quantizers_core import WeightsScheme
        >>> read_fields(WeightsScheme, {"training_method": "lsq"})
        {'training_method': <TrainingMethod.LSQ: 'LSQ'>}
    """
    known = [field.name for field in fields(scheme)]
    return {key: _read(scheme.__name__, key, value, where) for key, value in read_keys(scheme, given, known, where)}


def read_keys(owner: type, given: Any, known: list[str], where: str) -> list[tuple[str, Any]]:
    """The items of a table with known keys.

    Raises:
        QuantizerError: no table, or an unknown key.
    """
    if not isinstance(given, Mapping):
        raise invalid(owner.__name__, "section", "a table of keys", given, f"known: {', '.join(known)}", where)
    for key in given:
        if key not in known:
            raise invalid(owner.__name__, "key", "a known one", key, nearest(key, known), where)
    return list(given.items())


def plain_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``read_fields``: fields as values that TOML and JSON can hold.

    Examples:
        >>> plain_fields({"method": QuantizationMethod.SYMMETRIC, "num_bits": 4})
        {'method': 'symmetric', 'num_bits': 4}
    """
    return {key: _plain(key, value) for key, value in values.items() if value is not None}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, QuantizationSchedule | Oscillations):
        return value.to_dict()
    if key == "method":
        return next(word for word, method in METHODS.items() if method is value)
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, Enum) else value


def _read(owner: str, key: str, value: Any, where: str) -> Any:
    if value is None and key in _OPTIONAL:
        return None
    return _READERS[key](owner, key, value, where)


def _choice(owner: str, key: str, value: Any, where: str) -> Any:
    choices = _CHOICES[key]
    member = choices.get(value.lower()) if type(value) is str else value
    if any(member is choice for choice in choices.values()):
        return member
    if key == "training_method" and type(value) is str and value:  # an open set: see TrainingMethod
        return value
    raise invalid(owner, key, f"one of {', '.join(choices)}", value, nearest(str(value).lower(), choices), where)


def _width(owner: str, key: str, value: Any, where: str) -> int:
    least, most, advice = _WIDTHS[key]
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not integer or not least <= value <= most:
        raise invalid(owner, key, f"an integer in {least}..{most}", value, advice, where)
    return int(value)


def _widths(owner: str, key: str, value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise invalid(owner, key, "a list of widths", value, "write [2, 4, 8], say", where)
    return tuple(sorted({_width(owner, "num_bits", bits, f"{where}, {key}") for bits in value}))


def _schedule(owner: str, key: str, value: Any, where: str) -> QuantizationSchedule:
    if isinstance(value, QuantizationSchedule):
        return value
    known = [field.name for field in fields(QuantizationSchedule)]
    where = _inside(where, key)
    steps = dict(read_keys(QuantizationSchedule, value, known, where))
    QuantizationSchedule.check(steps, where)
    return QuantizationSchedule(**steps)


def _oscillations(owner: str, key: str, value: Any, where: str) -> Any:
    if value is False or isinstance(value, Oscillations):
        return value
    return Oscillations.from_dict(value, _inside(where, key))


def _inside(where: str, key: str) -> str:
    return f"{where}, {key}" if where else f" in {key}"


def _percentile(owner: str, key: str, value: Any, where: str) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 50 < value <= 100:
        raise invalid(owner, key, "above 50 and at most 100", value, "it is a share in percent: 99.9, say", where)
    return float(value)


def _ewgs(owner: str, key: str, value: Any, where: str) -> float:
    if not keeps_sign(value):
        raise invalid(owner, key, "a number of at least 0 and below 2", value, "0 scales no gradient", where)
    return float(value)


def _flag(owner: str, key: str, value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(owner, key, "true or false", value, "write it without quotes", where)
    return value


_OPTIONAL = ("rounding", "accumulator_bits", "bits_candidates", "schedule", "oscillations")
_READERS: dict[str, Callable[[str, str, Any, str], Any]] = {
    **dict.fromkeys(_CHOICES, _choice),
    **dict.fromkeys(_WIDTHS, _width),
    "bits_candidates": _widths,
    "schedule": _schedule,
    "oscillations": _oscillations,
    "percentile": _percentile,
    "ewgs": _ewgs,
    "freeze": _flag,
    "bias_correction": _flag,
}
