"""Data that nobody of this project wrote end in a typed error, in bounded time."""

import pytest
from trainable_quantizers_core import QuantizerError, Recipe, TrainableQuantizerWeightsConfig
from trainable_quantizers_core.quantizer.base_config import config_from_dict
from trainable_quantizers_core.reading import MAX_DEPTH, MAX_VALUES, check_size, reading


class Unprintable:
    def __repr__(self):
        raise RuntimeError


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH + 1, 100_000])
def test_depth_is_bounded(depth):
    if depth < MAX_DEPTH:
        check_size("Recipe", "data", nested(depth))
    else:
        with pytest.raises(QuantizerError, match=r"Recipe: data must be at most 64 levels deep"):
            check_size("Recipe", "data", nested(depth))


def test_size_and_integers_are_bounded():
    with pytest.raises(QuantizerError, match="of 1048576 values"):
        check_size("Recipe", "data", [0] * (MAX_VALUES + 1))
    with pytest.raises(QuantizerError, match="integers of at most 64 bits, got a int that cannot be shown"):
        check_size("Recipe", "data", {"num_bits": 10**5000})


@pytest.mark.parametrize("kind", [KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError])
def test_what_a_reader_raises_becomes_one_error(kind):
    rule = "Report: data must be as this package writes it, got 5; it is damaged"
    with pytest.raises(QuantizerError, match=rule), reading("Report", "data", 5):
        raise kind


def test_mistakes_of_the_programmer_are_no_damaged_data():
    with pytest.raises(NotImplementedError), reading("Report", "data", 5):
        raise NotImplementedError


@pytest.mark.parametrize("value", [Unprintable(), "x" * 10**6, list(range(10**5)), {"a": nested(5_000)}])
def test_messages_stay_short_whatever_the_value_is(value):
    with pytest.raises(QuantizerError) as caught:
        config_from_dict({"type": value})
    assert len(str(caught.value)) < 1_000


def test_a_key_of_many_parts_is_refused_at_once(tmp_path):
    (tmp_path / "npu.toml").write_text("a." * 20_000 + "a = 1")
    with pytest.raises(QuantizerError, match="a line holds more than 256 dots"):
        Recipe.from_file(tmp_path / "npu.toml")
    (tmp_path / "large.json").write_text(" " * 70_000)
    with pytest.raises(QuantizerError, match="must be of at most 65536 bytes, got 70000"):
        Recipe.from_file(tmp_path / "large.json")


@pytest.mark.parametrize("text", ["[" * 50_000, "9" * 5_000, "{", 5, None])
def test_what_is_no_json_is_said(text):
    with pytest.raises(QuantizerError, match="text must be JSON"):
        TrainableQuantizerWeightsConfig.from_json(text)
