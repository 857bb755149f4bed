"""Writes the tables and the plot of a benchmark run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]


def write_page(results: Results, path: Path) -> None:
    """All results as Markdown tables."""
    lines = []
    for group, tables in results.items():
        lines += [f"### {group}", ""]
        for title, table in tables.items():
            lines += [f"**{title}**", "", *rows(table), ""]
    path.write_text("\n".join(lines))


def rows(table: dict[str, Any]) -> list[str]:
    """One table: cases with ratios, or plain figures."""
    if "cases" not in table:
        return [line(*table), line(*["---"] * len(table)), line(*table.values())]
    body = [
        line(name, f"{case['milliseconds']:.3g}", f"{case['ratio']:.2f}", "{:.2f} to {:.2f}".format(*case["quartiles"]))
        for name, case in table["cases"].items()
    ]
    return [line(f"{table['rounds']} rounds", "ms", "ratio", "quartiles"), line(*["---"] * 4), *body]


def line(*cells: Any) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def plot(results: Results, path: Path) -> None:
    """Ratio to relu against the number of elements, and ratio of training steps to float."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (f"{name}, 2 threads", tables, mode)
        for name, group, mode in (
            ("PyTorch", "torch_operations", "per tensor, "),
            ("tf.function", "keras_operations", "tf.function, per tensor, "),
            ("XLA", "keras_operations", "XLA, per tensor, "),
        )
        if (tables := results.get(f"{group}, 2 threads"))
    ]
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.5 * len(panels), 4.5), squeeze=False, sharey=True)
    for axis, (title, tables, mode) in zip(axes[0], panels, strict=True):
        sizes = {
            float(key.removeprefix(mode).split()[0]): table
            for key, table in tables.items()
            if key.startswith(mode) and key.endswith("elements")
        }
        names = next(iter(sizes.values()))["cases"]
        for name in names:
            if name.startswith(("quantizer, LSQ s", "quantizer, LSQ u", "quantizer, STE", "copy", "hardtanh")):
                continue
            ours = name.startswith(("operation", "quantizer"))
            ratios = [table["cases"][name]["ratio"] for table in sizes.values()]
            axis.plot(list(sizes), ratios, label=name, linewidth=2 if ours else 1, linestyle="-" if ours else "--")
        axis.set(title=title, xscale="log", yscale="log", xlabel="elements", ylabel="time / relu")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
