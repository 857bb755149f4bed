"""The examples do what is said of them: they learn, and deploy what they trained; quantizers keep the contract."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
SHORT = ["--float-epochs", "10", "--epochs", "15"]
SHORTEST = ["--float-epochs", "6", "--epochs", "4"]
RUNS = [  # framework, options, largest loss of accuracy in points
    ("torch", SHORTEST, 2.0),
]
LONG_RUNS = [
    ("torch", [], 1.0),
    ("keras", [], 1.0),
    ("torch", [*SHORT, "--weight-bits", "2", "--activation-bits", "2"], 4.0),
    ("keras", [*SHORT, "--weight-bits", "2", "--activation-bits", "2"], 4.0),
    ("torch", [*SHORT, "--method", "STE", "--quantization", "uniform"], 1.0),
    ("keras", [*SHORT, "--method", "STE", "--quantization", "symmetric"], 1.0),
]


@pytest.mark.parametrize(
    ("framework", "options", "points"),
    [*RUNS, *(pytest.param(*run, marks=pytest.mark.long) for run in LONG_RUNS)],
    ids=str,
)
def test_example(framework, options, points, monkeypatch, capsys):
    program = EXAMPLES / f"digits_{framework}.py"
    monkeypatch.setattr(sys, "argv", [str(program), *options])
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("COLUMNS", "100")
    runpy.run_path(str(program), run_name="__main__")
    printed = capsys.readouterr().out
    accuracy = [float(found) for found in re.findall(r"([0-9.]+) %", printed.rpartition("accuracy")[2])]
    original, _, trained, deployed = accuracy
    assert original > 95
    assert trained >= original - points
    assert deployed == trained
    assert "0 of 450" in printed
    assert re.search(r"largest output difference\s+│\s+0 ", printed)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_example_is_short_enough_to_copy(framework):
    assert len((EXAMPLES / f"digits_{framework}.py").read_text().splitlines()) < 120


OWN = [  # compiled, they are what the shipped quantizers show
    pytest.param(*trial.values, id=trial.id, marks=[*trial.marks, *[pytest.mark.long] * ("compile" in trial.id)])
    for framework in ("torch", "keras")
    for mark in runpy.run_path(str(EXAMPLES / f"own_quantizer_{framework}.py"))["test_contract"].pytestmark
    for trial in mark.args[1]
    if "4bit" in trial.id  # widths are the shipped quantizers' matter: this one changes a rule for gradients
]


@pytest.mark.parametrize("trial", OWN)
def test_quantizers_of_ones_own_keep_the_contract(trial):
    trial.run()
