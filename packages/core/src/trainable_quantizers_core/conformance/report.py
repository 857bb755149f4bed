"""Runs all trials and reports the outcomes as a table or JSON."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from trainable_quantizers_core.conformance.comparison import compared
from trainable_quantizers_core.conformance.suite import Trial

PACKAGES = ("trainable-quantizers-core", "mct-quantizers", "numpy", "torch", "tensorflow", "keras", "tf-keras")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one trial; ``error`` is empty if the promise is kept, ``comparisons`` counts compared numbers."""

    trial: Trial
    error: str
    comparisons: int


def run_all(trials: Iterable[Trial], quiet: bool = False) -> list[Outcome]:
    """Run every trial, even if others fail."""
    outcomes = []
    for trial in track(list(trials), "Checking", disable=quiet, transient=True):
        before = compared["elements"]
        try:
            trial.run()
            error = ""
        except Exception as problem:  # a crash breaks the promise, too
            error = f"{type(problem).__name__}: {problem}"
        outcomes.append(Outcome(trial, error, compared["elements"] - before))
    return outcomes


def table(outcomes: list[Outcome]) -> Table:
    """One row per promise, one column per quantizer; a cell counts passes, or failures of all."""
    names = {o.trial.quantizer_class.__name__.removesuffix("TrainableQuantizer"): None for o in outcomes}
    shown = Table(title="Promises kept, by quantizer", show_lines=False)
    shown.add_column("promise", no_wrap=True)
    for name in names:
        shown.add_column(name.replace("Symmetric", "\nSymmetric\n").replace("Uniform", "\nUniform\n"), justify="right")
    rows: dict[tuple[str, str], dict[str, Counter[bool]]] = {}
    for outcome in outcomes:
        row = rows.setdefault((outcome.trial.adapter.name, outcome.trial.promise), {})
        name = outcome.trial.quantizer_class.__name__.removesuffix("TrainableQuantizer")
        row.setdefault(name, Counter())[not outcome.error] += 1
    previous = ""
    for (adapter, promise), row in rows.items():
        if adapter != previous:
            shown.add_section()
            shown.add_row(f"[bold]{adapter}[/bold]")
            previous = adapter
        shown.add_row(promise.replace("_", " "), *(_cell(row.get(name, Counter())) for name in names))
    return shown


def _cell(counts: Counter[bool]) -> str:
    if not counts:
        return "[dim]-[/dim]"
    return (
        f"[red]{counts[False]} of {counts.total()} broken[/red]" if counts[False] else f"[green]{counts[True]}[/green]"
    )


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """All outcomes, as JSON-compatible values."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "trials": len(outcomes),
        "cases": len({(outcome.trial.adapter.name, outcome.trial.case) for outcome in outcomes}),
        "comparisons": sum(outcome.comparisons for outcome in outcomes),
        "broken": sum(bool(outcome.error) for outcome in outcomes),
        "outcomes": [
            {
                "adapter": outcome.trial.adapter.name,
                "quantizer": outcome.trial.quantizer_class.__name__,
                "case": str(outcome.trial.case),
                "promise": outcome.trial.promise,
                "error": outcome.error,
            }
            for outcome in outcomes
        ],
    }


def show(outcomes: list[Outcome]) -> None:
    """Print the table, the first few failures, and one line of conclusion."""
    console = Console()
    console.print(table(outcomes))
    broken = [outcome for outcome in outcomes if outcome.error]
    for outcome in broken[:10]:
        console.print(f"[red]{outcome.trial}[/red]: {outcome.error}", markup=True, highlight=False)
    counts = summary(outcomes)
    console.print(
        f"{len(outcomes) - len(broken)} of {len(outcomes)} promises kept, in {counts['cases']} cases, "
        f"by {counts['comparisons']:,} comparisons.",
        style="red" if broken else "green",
    )
