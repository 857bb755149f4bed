"""A report in the terminal."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core.files import optional
from trainable_quantizers_core.report import words
from trainable_quantizers_core.report.data import ModelReport


def to_table(report: ModelReport) -> Any:
    """One row per tensor, as a ``rich.table.Table``.

    Raises:
        ImportError: rich is not installed; the message says how to install it.
    """
    text = optional("rich.text", "report").Text  # takes names as they are, brackets included
    box = optional("rich.box", "report").SIMPLE_HEAD
    table = optional("rich.table", "report").Table(title=text(f"{report.model} ({report.framework})"), box=box)
    table.add_column("tensor", overflow="fold")
    table.add_column("scheme")
    for column in ("bits", "range", "clipped", "levels", "SQNR"):
        table.add_column(column, justify="right", no_wrap=True)
    for tensor in report.tensors:
        clipped, levels, sqnr, _ = words.figures(tensor)
        cells = (
            words.name(tensor),
            words.scheme(tensor),
            str(tensor.num_bits),
            words.parameters(tensor),
            clipped,
            levels,
            sqnr,
        )
        table.add_row(*map(text, cells))
    return table


def print_report(report: ModelReport, console: Any = None) -> None:
    """Print the table, what was left in float, what each quantizer costs if measured, and the totals.

    Args:
        report: The report.
        console: The console to print to; None is a new ``rich.console.Console``.

    Raises:
        ImportError: rich is not installed; the message says how to install it.
    """
    console = console or optional("rich.console", "report").Console()
    console.print(to_table(report))
    for layer in report.skipped:
        console.print(f"left in float: {layer.name} ({layer.type}): {layer.reason}", markup=False, highlight=False)
    if report.sensitivity is not None:
        console.print(str(report.sensitivity), markup=False, highlight=False)
    for label, (figure, detail) in words.totals(report).items():
        console.print(f"{label}: {figure}{f' ({detail})' if detail else ''}", markup=False, highlight=False)
