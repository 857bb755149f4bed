"""The benchmarks' own code: what it writes follows from what it measured."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "tools/bench"
CODE = """
import json, sys
from timing import compare
from page import rows
calls = []
table = compare({"one": lambda: calls.append(1), "two": lambda: calls.append(2)}, seconds=0.0, at_least=4)
assert calls == [1, 2] * 6, calls  # two rounds to warm up, four that count, alternating
print(json.dumps([table, rows(table), rows({"prepare": 0.5})]))
"""


def test_cases_alternate_and_become_ratios_to_the_first():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=BENCH, capture_output=True, text=True, check=True)
    table, lines, figures = json.loads(done.stdout)
    assert table["rounds"] == 4
    assert table["cases"]["one"]["ratio"] == 1.0
    assert table["cases"]["one"]["quartiles"] == [1.0, 1.0]
    assert lines[0] == "| 4 rounds | ms | ratio | quartiles |"
    assert lines[2].endswith("| 1.00 | 1.00 to 1.00 |")
    assert figures == ["| prepare |", "| --- |", "| 0.5 |"]
