"""Writes the tables of docs/accuracy.md from docs/accuracy.json."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from itertools import product
from typing import Any

from cases import CASES, SEEDS, Case

TITLES = {
    "ours": "ours",
    "LSQ": "ours, LSQ alone",
    "LSQ, norms kept": "the same, norms kept",
    "LSQ, norms folded at conversion": "the same, norms folded at conversion",
    "Brevitas": "Brevitas",
    "toolkit": "toolkit",
    "torchao": "torchao",
}
METHODS = {"power_of_two": "Powers of two", "symmetric": "Symmetric"}


def render(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with new tables: the text between each pair of comments is replaced."""
    tables = {"accuracy": figures(results), "rates": rates(results), "versions": versions(results)}
    for name, lines in tables.items():
        parts = re.split(f"(<!-- {name} -->|<!-- end of {name} -->)", page)
        if len(parts) != 5:
            raise ValueError(f"The page must hold {name!r} once, it holds it {len(parts) // 4} times.")
        page = "".join((*parts[:2], "\n", "\n".join(lines), "\n", *parts[3:]))
    return page


def figures(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation of the seeds; the best is bold, with all within its standard deviation."""
    for method, title in METHODS.items():
        measured = [line for case in CASES if case.method == method for line in row(results["accuracy"], case)]
        if measured:
            yield from ("", f"### {title}", "", f"| data | network | float | bits | {' | '.join(TITLES.values())} |")
            yield "|---" * (4 + len(TITLES)) + "|"
            yield from measured
    yield ""


def row(found: dict[str, float], case: Case) -> Iterator[str]:
    """The line of a case; none unless a tool was measured."""
    cells = {tool: values(found, f"{case.key} {tool}") for tool in TITLES}
    best = max((each for each in cells.values() if each), key=statistics.mean, default=[])
    if best:
        numbers = [cell(each, is_best(each, best)) for each in cells.values()]
        start = cell(values(found, f"{case.data} {case.network} float"), False)
        yield f"| {' | '.join((case.data, case.network, start, case.bits, *numbers))} |"


def values(found: dict[str, float], key: str) -> list[float]:
    """The values of the seeds; none unless all were measured."""
    given = [found[f"{key} {seed}"] for seed in SEEDS if f"{key} {seed}" in found]
    return given if len(given) == len(SEEDS) else []


def is_best(given: list[float], best: list[float]) -> bool:
    """Whether the mean lies within the standard deviation of the best."""
    return bool(given) and statistics.mean(best) - statistics.mean(given) <= statistics.stdev(best)


def cell(given: list[float], bold: bool) -> str:
    """One figure in a table."""
    if not given:
        return "-"
    text = f"{statistics.mean(given):.1f} ± {statistics.stdev(given):.1f}"
    return f"**{text}**" if bold else text


def rates(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The results of each tool with the two rates at each width; the chosen rate is bold."""
    widths = list(dict.fromkeys(case.bits for case in CASES))
    yield from ("", f"| data | network | tool | {' | '.join(widths)} |", "|---" * (3 + len(widths)) + "|")
    for pair, tool in product(dict.fromkeys(f"{case.data} | {case.network}" for case in CASES), TITLES):
        found = [results["rates"].get(f"{pair.replace(' |', '')} {bits} {tool}", {}) for bits in widths]
        if any(found):
            yield f"| {pair} | {TITLES[tool]} | {' | '.join(map(trials, found))} |"
    yield ""


def trials(found: dict[str, float]) -> str:
    """One cell: rates and their results."""
    best = max(found, key=found.__getitem__, default="")
    cells = (f"{rate}: {value:.1f}" for rate, value in found.items())
    return ", ".join(f"**{each}**" if each.startswith(f"{best}:") else each for each in cells) or "-"


def versions(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Packages that were compared, and those that bring the data."""
    yield from ("", "| package | version |", "|---|---|")
    yield from (f"| {name} | {number} |" for name, number in results["versions"].items())
    yield ""
