"""Prepares public architectures, trains a step, converts, verifies and exports them; writes docs/zoo-*.md.

``python3 tools/dev.py zoo [torch|keras] [--only TEXT]``. Each network gets random weights, norms folded.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPE = "power_of_two_8bit"
HEAD = """# {title} networks from packages

Measured by `python3 tools/dev.py zoo {framework}`. Each network has random weights and passes, unchanged, through
`prepare` with `{recipe}` and `fold_batch_norm=True`, a training step, `convert`, `verify` and `export`. Coverage is
the share of multiply-accumulates whose weights and inputs are quantized; a sum counts if all its operands are. The
seconds are those of `prepare` on two cores.

| network | coverage | sums | norms folded | identical when converted | identical {file} | seconds |
|---|---|---|---|---|---|---|
"""


def row(way: Any, name: str, network: Any) -> str:
    """A row of the table; a failure is a result too."""
    try:
        found, identical, exported, seconds = way.all_the_way(network, RECIPE)
    except Exception as error:  # anything that a network or its package raises
        return f"| {name} | {type(error).__name__}: {' '.join(str(error).split())[:120]} | | | | | |"
    folded = sum("folded into" in each.reason for each in found.rows)
    sums = f"{found.work.quantized_sums} of {found.work.sums}"
    words = ["yes" if same else "no" for same in (identical, exported)]
    return f"| {name} | {100 * found.coverage:.1f} % | {sums} | {folded} | {words[0]} | {words[1]} | {seconds:.1f} |"


def main() -> None:
    """Measure and write the page; with --only, print alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=["torch", "keras"], nargs="?", default="torch")
    parser.add_argument("--only", default="", help="measure the networks whose names hold this text, and write nothing")
    chosen = parser.parse_args()
    way = importlib.import_module(f"{chosen.framework}_way")
    rows = []
    for name, network in way.networks():
        if chosen.only.lower() in name.lower():
            rows.append(row(way, name, network))
            print(rows[-1], flush=True)
    if not rows:
        parser.error(f"no network's name holds {chosen.only!r}")
    if not chosen.only:
        title = {"torch": "PyTorch", "keras": "Keras"}[chosen.framework]
        head = HEAD.format(title=title, framework=chosen.framework, recipe=RECIPE, file=way.FILE)
        (DOCS / f"zoo-{chosen.framework}.md").write_text(head + "\n".join(rows) + "\n" + way.NOTES)


if __name__ == "__main__":
    main()
