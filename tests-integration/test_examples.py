"""The examples do what the README says of them: they learn, and what they deploy is what they trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
RUNS = [  # framework, options, largest loss of accuracy in points
    ("torch", [], 1.0),
    ("keras", [], 1.0),
    ("torch", ["--weight-bits", "2", "--activation-bits", "2"], 4.0),
    ("keras", ["--weight-bits", "2", "--activation-bits", "2"], 4.0),
    ("torch", ["--method", "STE", "--quantization", "uniform"], 1.0),
    ("keras", ["--method", "STE", "--quantization", "symmetric"], 1.0),
]


@pytest.mark.parametrize(("framework", "options", "points"), RUNS, ids=lambda part: str(part))
def test_example(framework, options, points):
    environment = {**os.environ, "COLUMNS": "100", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(EXAMPLES / f"digits_{framework}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    accuracy = [float(found) for found in re.findall(r"([0-9.]+) %", done.stdout.rpartition("accuracy")[2])]
    original, _, trained, deployed = accuracy
    assert original > 95
    assert trained >= original - points
    assert deployed == trained
    assert "0 of 450" in done.stdout
    assert re.search(r"largest output difference\s+│\s+0 ", done.stdout)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_example_is_short_enough_to_copy(framework):
    assert len((EXAMPLES / f"digits_{framework}.py").read_text().splitlines()) < 120
