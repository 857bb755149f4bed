"""The program: what it prints, and how it ends."""

from dataclasses import replace

import numpy as np
import pytest
from mct_quantizers import QuantizationMethod
from trainable_quantizers_core import Recipe
from trainable_quantizers_core.command_line import main
from trainable_quantizers_core.training.parameter_file import QuantizerState, save_parameters

CONV = QuantizerState(
    layer="block.conv",
    attribute="weight",
    target="weights",
    quantizer="Q",
    method=QuantizationMethod.SYMMETRIC,
    num_bits=4,
    signed=True,
    per_channel=True,
    values={"threshold": np.float32([0.5, 2.0])},
)
VALUES = {"threshold": np.float32(3.0)}
RELU = replace(CONV, layer="relu", attribute="output", target="activation", per_channel=False, values=VALUES)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = replace(CONV, values={"threshold": np.float32([0.5, 2.25])})
    save_parameters("one.safetensors", [CONV, RELU])
    save_parameters("other.safetensors", [moved, RELU])
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "wrong.toml").write_text("[weigths]\nnum_bits = 4\n")
    Recipe.preset("mixed_w4a8").to_file("recipe.toml")
    np.save("data.npy", np.zeros(3))
    (tmp_path / "deep.json").write_text("[" * 50_000)


def test_inspect_shows_parameters(files, capsys):
    assert main(["inspect", "one.safetensors"]) == 0
    printed = capsys.readouterr().out
    assert "block.conv.weight  4     symmetric, signed  threshold 0.5 to 2 (2 channels)" in printed
    assert "relu.output        4     symmetric, signed  threshold 3" in printed


def test_inspect_shows_a_recipe(files, capsys):
    assert main(["inspect", "recipe.toml"]) == 0
    printed = capsys.readouterr().out
    assert "weights: " in printed
    assert "num_bits = 4" in printed
    assert "rule 1, " in printed


def test_compare_names_what_differs(files, capsys):
    assert main(["compare", "one.safetensors", "other.safetensors"]) == 1
    printed = capsys.readouterr().out
    assert printed == "block.conv.weight threshold: 1 of 2 values, by up to 0.25\n1 of 2 parameters differ.\n"
    assert main(["compare", "one.safetensors", "one.safetensors"]) == 0


MISTAKES = {
    "no file": (["inspect", "none.toml"], "No such file"),
    "a damaged file": (["inspect", "broken.safetensors"], "it is damaged"),
    "an unknown key": (["inspect", "wrong.toml"], "did you mean 'weights'?"),
    "an unknown ending": (["verify", "a.onxx", "b.pt", "--data", "data.npz"], "must be a model file, got 'a.onxx'"),
    "too deep": (["inspect", "deep.json"], "must be JSON text"),
    "no suite": (["inspect", "data.npy"], "that of a .toml or .json file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, files, capsys):
    arguments, text = MISTAKES[mistake]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.err.startswith("trainable-quantizers: ")
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_command_without_its_files_shows_how_it_is_used(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compare"])
    assert ended.value.code == 2
    assert "usage: trainable-quantizers compare" in capsys.readouterr().err
