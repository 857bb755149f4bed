"""The accuracy page: its tables are those of the results, and the program that measures them runs."""

import importlib
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tools/accuracy"


@pytest.fixture
def tool(monkeypatch):
    """Imports a module of the program."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_the_page_shows_the_results(tool):
    page, results = (ROOT / "docs/accuracy.md").read_text(), json.loads((ROOT / "docs/accuracy.json").read_text())
    assert tool("accuracy_page").render(page, results) == page


def test_the_best_is_bold_and_so_is_what_lies_within_its_spread(tool):
    case = tool("cases").CASES[0]
    given = {"ours": (90, 91, 92), "LSQ": (80, 81, 82), "Brevitas": (89, 90, 92), "toolkit": (50, 50)}
    given["LSQ, norms kept"] = (0, 92, 92)  # whose own spread is wide
    results = {"versions": {"torch": "2.13.0"}, "rates": {"digits plain W3A3 ours": {"0.01": 80.0, "0.03": 90.0}}}
    results["accuracy"] = {f"{case.key} {name} {seed}": v for name, vs in given.items() for seed, v in enumerate(vs)}
    page = "".join(f"<!-- {name} -->\n<!-- end of {name} -->\n" for name in ("accuracy", "rates", "versions"))
    found = tool("accuracy_page").render(page, results)
    start = f"| {case.data} | {case.network} | - | W2A2"
    row = f"{start} | **91.0 ± 1.0** | 81.0 ± 1.0 | 61.3 ± 53.1 | - | **90.3 ± 1.5** | - | - |"
    assert row in found.splitlines()  # a tool whose seeds are not all there has no figure
    assert "### Powers of two" in found and "### Symmetric" not in found  # nor has a method without rows a table
    assert "| digits | plain | ours | - | 0.01: 80.0, **0.03: 90.0** | - | - |" in found
    assert "| torch | 2.13.0 |" in found
    with pytest.raises(ValueError, match="'accuracy' once, it holds it 0 times"):
        tool("accuracy_page").render("", results)


def test_measuring_runs_and_takes_up_where_it_stopped(tool, tmp_path, capsys):
    table, cases = tool("table"), tool("cases")
    case, file = cases.Case("digits", "depthwise", "power_of_two", 3, 3), tmp_path / "results.json"
    for tools in (["ours"], ["ours", "torchao"]):  # the second one has nothing left to do
        table.measure([case], (0,), tools, file, 1, 1)
    found = table.read(file)
    assert found["accuracy"].keys() == {"digits depthwise float 0", f"{case.key} ours 0"}
    assert all(0 <= value <= 100 for value in found["accuracy"].values())
    assert found["rates"].keys() == {"digits depthwise W3A3 ours"}
    assert capsys.readouterr().out.count("ours") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_trial_on_data_that_is_sorted_by_class_is_refused(tool, monkeypatch):
    table, given = tool("table"), tool("data").Data
    x, y = torch.zeros(8, 1, 1, 4), torch.arange(8) // 2
    monkeypatch.setattr(table, "load", lambda name: given(x, y, x, y))
    with pytest.raises(ValueError, match="sorted must hold its samples in random order"):
        table.trial("sorted", "plain", 1)


def test_what_other_packages_raise_counts_as_zero_and_what_ours_raises_does_not(tool, monkeypatch, capsys):
    table, case = tool("table"), tool("cases").CASES[0]

    def broken(*arguments):
        raise ArithmeticError("a threshold is NaN")

    for name in ("toolkit", "ours"):
        monkeypatch.setitem(table.TOOLS, name, broken)
    assert table.outcome("toolkit", None, None, case, None, 0) == 0
    assert "toolkit 0: ArithmeticError: a threshold is NaN" in capsys.readouterr().out
    with pytest.raises(ArithmeticError):
        table.outcome("ours", None, None, case, None, 0)
