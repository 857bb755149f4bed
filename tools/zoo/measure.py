"""Prepares public architectures, trains a step, converts, verifies and exports them; writes docs/zoo.md.

``python3 tools/dev.py zoo [--only TEXT]``. Each network gets random weights and ``power_of_two_8bit``, norms folded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch_networks import Network, networks
from trainable_quantizers_torch import Recipe, convert, export, prepare, summary, verify

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
HEAD = """# Networks from packages

What `python3 tools/dev.py zoo` measured. Each network has random weights; it is prepared as it is, with
`power_of_two_8bit` and `fold_batch_norm=True`, trained a step, converted, verified and exported. Coverage is the share
of multiply-accumulates whose weights and inputs are quantized; sums count where all operands are.

| network | coverage | sums | norms folded | identical when converted | .pt2 | seconds to prepare |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """What became of a network: cells of the table."""

    name: str
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return f"| {' | '.join((self.name, *self.cells))} |"


def measure(name: str, network: Network) -> Result:
    """All the way with one network; a failure is a result too."""
    torch.manual_seed(0)
    build, inputs = network
    model = build().eval()
    try:
        start = time.perf_counter()
        prepared = prepare(model, Recipe.preset("power_of_two_8bit"), [inputs], fold_batch_norm=True, verbose=False)
        seconds = time.perf_counter() - start
        found = summary(prepared)
        step(prepared, inputs)
        deployed = convert(prepared.eval())
        identical = verify(prepared, deployed, [inputs]).identical
        with tempfile.TemporaryDirectory() as folder:
            exported = export(deployed, Path(folder) / "model.pt2", inputs, dynamic_batch=False)
        folded = sum("folded into" in row.reason for row in found.rows)
        sums = f"{found.work.quantized_sums} of {found.work.sums}"
        cells = (f"{100 * found.coverage:.1f} %", sums, str(folded), _word(identical), _word(exported.identical))
        return Result(name, (*cells, f"{seconds:.1f}"))
    except Exception as error:  # whatever a network or its package raises
        return Result(name, (f"{type(error).__name__}: {str(error)[:120]}", "", "", "", "", ""))


def step(model: torch.nn.Module, inputs: Any) -> None:
    """One step of training."""
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-4)
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    first(output).float().square().mean().backward()
    optimizer.step()


def first(output: Any) -> torch.Tensor:
    """The first tensor of an output."""
    if isinstance(output, torch.Tensor):
        return output
    return first(next(iter(output.values())) if isinstance(output, dict) else output[0])


def _word(same: bool) -> str:
    return "yes" if same else "no"


def main() -> None:
    """Measure and write the page; with --only, print alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure the networks whose names hold this text, and write nothing")
    only = parser.parse_args().only
    results = []
    for name, network in networks():
        if only in name:
            results.append(measure(name, network))
            print(results[-1], flush=True)
    if not only:
        PAGE.write_text(HEAD + "".join(f"{result}\n" for result in results))


if __name__ == "__main__":
    main()
