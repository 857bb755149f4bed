import json
from enum import Enum

import numpy as np
import pytest
from trainable_quantizers_core import QuantizationMethod, QuantizerError, TrainingMethod, register_enum
from trainable_quantizers_core.quantizer.serialization import decode, encode


@register_enum
class Rounding(Enum):
    UP = 1


VALUES = [
    None,
    True,
    3,
    0.1,
    float("inf"),
    "text",
    [1, (2, [3])],
    {"a": {"b": 1}},
    np.float32([[0.1, np.nan], [np.inf, 1e-45]]),
    np.arange(3),
    np.array([True, False]),
    np.float64(0.1),
    np.zeros((0, 2), np.float32),
    QuantizationMethod.POWER_OF_TWO,
    TrainingMethod.LSQ,
    Rounding.UP,
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_survive_json(value):
    restored = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert type(restored) is type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert restored.dtype == value.dtype
        np.testing.assert_array_equal(restored, value)
    else:
        assert restored == value


class Unregistered(Enum):
    ONE = 1


@pytest.mark.parametrize("value", [print, {1: 2}, {"$a": 1}, Unregistered.ONE, np.array(["a"]), {1, 2}], ids=str)
def test_what_could_not_be_restored_is_refused(value):
    with pytest.raises(QuantizerError, match="encode: value must be"):
        encode(value)


def test_unknown_tags_and_enumerations_are_refused():
    with pytest.raises(QuantizerError, match="tag must be one that encode writes, got"):
        decode({"$new": 1})
    with pytest.raises(
        QuantizerError, match=r"enumeration must be registered, got 'Roundin'; .*did you mean 'Rounding'"
    ):
        decode({"$enum": "Roundin", "name": "UP"})


def test_a_second_enumeration_of_a_name_is_refused():
    with pytest.raises(QuantizerError, match="of a name that is not taken"):
        register_enum(Enum("Rounding", ["DOWN"]))
