"""Fills docs/accuracy.json and the tables of docs/accuracy.md.

``python3 tools/dev.py accuracy page`` takes up where it stopped: what the file holds is not measured again. Several
processes may fill it together, each with networks or tools of its own. ``--quick FILE`` shows in a minute that
everything runs, and writes nothing under docs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accuracy_page import METHODS, render
from cases import CASES, SEEDS, Case
from data import Data, load
from networks import NETWORKS
from ours import folded_at_conversion, lsq, norms_kept, ours
from rivals import brevitas, toolkit, torchao
from torch import nn
from training import Budget, accuracy, train

Tool = Callable[[nn.Module, Data, Case, Budget, int], nn.Module]
TOOLS: dict[str, Tool] = {
    "ours": ours,
    "LSQ": lsq,
    "LSQ, norms kept": norms_kept,
    "LSQ, norms folded at conversion": folded_at_conversion,
    "Brevitas": brevitas,
    "toolkit": toolkit,
    "torchao": torchao,
}
PACKAGES = ("torch", "brevitas", "torchao", "model-compression-toolkit", "mct-quantizers", "mlxtend", "mnist1d", "aeon")
STEPS, FLOAT_STEPS, FLOAT_RATE = 150, 500, 1e-2
RATES = {"depthwise": (1e-2, 3e-2), "plain": (1e-2, 3e-2), "transformer": (3e-3, 1e-2)}
DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


@cache
def trained(data: str, network: str, seed: int, steps: int) -> nn.Module:
    """The float network that every tool starts from."""
    torch.manual_seed(seed)
    model = NETWORKS[network](load(data))
    train(model, load(data), Budget(steps, FLOAT_RATE), seed)
    return model.eval()


@cache
def trial(name: str, network: str, steps: int) -> tuple[nn.Module, Data]:
    """A float network of another seed, with a quarter of the samples to train held back to test."""
    given = load(name)
    part = len(given.y) // 4
    data = Data(given.x[part:], given.y[part:], given.x[:part], given.y[:part])
    if not set(data.test_y.tolist()) <= set(data.y.tolist()):
        raise ValueError(f"{name} must hold its samples in random order: some classes are held back whole.")
    torch.manual_seed(99)
    model = NETWORKS[network](data)
    train(model, data, Budget(steps, FLOAT_RATE), 99)
    return model.eval(), data


def add(file: Path, part: str, key: str, value: Any) -> None:
    """Add a result; other processes may write to the file as well."""
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        found = read(file)
        found[part][key] = value
        fresh = Path(f"{file}.new")
        ordered = {name: dict(sorted(each.items())) for name, each in found.items()}
        fresh.write_text(json.dumps(ordered, indent=1) + "\n")
        os.replace(fresh, file)
    finally:
        os.close(folder)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """All results so far."""
    empty: dict[str, dict[str, Any]] = {"versions": {}, "rates": {}, "accuracy": {}}
    return json.loads(file.read_text()) if file.exists() else empty


def rate_of(tool: str, case: Case, file: Path, steps: int, float_steps: int) -> float:
    """The better of two rates for this tool, data, network and width, as a trial at powers of two says."""
    chosen = replace(case, method="symmetric" if tool == "torchao" else "power_of_two")
    key = f"{case.data} {case.network} {case.bits} {tool}"
    if key not in read(file)["rates"]:
        network, data = trial(chosen.data, chosen.network, float_steps)
        found = {}
        for rate in RATES[case.network]:
            found[str(rate)] = outcome(tool, network, data, chosen, Budget(steps, rate), 99)
        add(file, "rates", key, found)
    found = read(file)["rates"][key]
    return float(max(found, key=found.__getitem__))


def outcome(tool: str, network: nn.Module, data: Data, case: Case, budget: Budget, seed: int) -> float:
    """Percent of the samples to test; 0 where another package raises while it trains or converts."""
    try:
        return accuracy(TOOLS[tool](network, data, case, budget, seed), data)
    except Exception as error:
        if tool not in ("Brevitas", "toolkit", "torchao"):
            raise
        print(f"{case.key} {tool} {seed}: {type(error).__name__}: {error}", flush=True)
        return 0.0


def applies(tool: str, case: Case) -> bool:
    """Whether a tool supports a case: torchao has only linear layers with 8-bit inputs, and no powers of two."""
    if tool == "torchao":
        return case.network == "transformer" and case.method == "symmetric" and case.activation_bits == 8
    return "norms" not in tool or case.network == "depthwise"


def measure(
    cases: list[Case],
    seeds: tuple[int, ...],
    tools: list[str],
    file: Path,
    steps: int = STEPS,
    float_steps: int = FLOAT_STEPS,
) -> None:
    """Measure everything that the file lacks."""
    for case in cases:
        for seed in seeds:
            network, data = trained(case.data, case.network, seed, float_steps), load(case.data)
            key = f"{case.data} {case.network} float {seed}"
            if key not in read(file)["accuracy"]:
                add(file, "accuracy", key, accuracy(network, data))
            for tool in tools:
                key = f"{case.key} {tool} {seed}"
                if not applies(tool, case) or key in read(file)["accuracy"]:
                    continue
                start = time.process_time()
                rate = rate_of(tool, case, file, steps, float_steps)
                add(file, "accuracy", key, outcome(tool, network, data, case, Budget(steps, rate), seed))
                print(f"{key}: {read(file)['accuracy'][key]:.1f} %, {time.process_time() - start:.0f} s", flush=True)


def main() -> None:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--data", nargs="+", help="names of data; all without it")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--render", action="store_true", help="measure nothing: only write the tables")
    parser.add_argument("--quick", metavar="FILE", type=Path, help="digits, one seed, two steps; results to FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.quick:
        cases = [Case("digits", name, "power_of_two", 3, 3) for name in options.networks]
        cases += [Case("digits", name, "symmetric", 4, 8) for name in options.networks]
        measure(cases, (0,), options.tools, options.quick, 2, 2)
        return
    file = DOCS / "accuracy.json"
    if not options.render:
        for package in PACKAGES:
            try:
                add(file, "versions", package, version(package).partition("+")[0])
            except PackageNotFoundError:
                continue
        chosen = [
            each
            for each in CASES
            if each.network in options.networks
            and each.method in options.methods
            and (not options.data or each.data in options.data)
        ]
        measure(chosen, SEEDS, options.tools, file)
    page = DOCS / "accuracy.md"
    page.write_text(render(page.read_text(), json.loads(file.read_text())))


if __name__ == "__main__":
    main()
