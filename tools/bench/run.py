"""Runs the benchmarks, each group in a process of its own, and writes JSON, a plot and a page of tables.

``python3 tools/dev.py bench`` runs them all; ``--quick`` shows in a minute that they run; ``--only torch_operations``
runs one group. Ratios compare cases of one run, which alternate: other machines have other milliseconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

GROUPS = ("torch_operations", "torch_training", "keras_operations", "keras_training", "startup")
HERE = Path(__file__).parent


def run_group(group: str, threads: int, quick: bool) -> dict[str, Any]:
    """The tables of a group, by title; this runs in the group's process."""
    module = importlib.import_module(group)
    if group != "startup":
        return module.run(threads, quick)
    return {
        f"{framework}: {title}": table
        for framework in ("torch", "keras")
        for title, table in module.run(framework, quick).items()
    }


def main() -> None:
    """Start a process per group and number of threads, or run as one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder to write to")
    parser.add_argument("--only", choices=GROUPS, action="append", help="groups to run; may be repeated")
    parser.add_argument("--threads", type=int, action="append", help="numbers of threads (2 and 1)")
    parser.add_argument("--quick", action="store_true", help="small tensors, few rounds: only that it runs")
    parser.add_argument("--worker", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    groups, counts = options.only or list(GROUPS), options.threads or ([2] if options.quick else [2, 1])
    if options.worker:
        options.worker.write_text(json.dumps(run_group(groups[0], counts[0], options.quick)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "benchmarks.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for group in groups:
        for threads in counts[:1] if group in ("startup", "torch_training", "keras_training") else counts:
            key = f"{group}, {threads} thread{'s' * (threads > 1)}"
            print(f"{key} ...", flush=True)
            part = options.output / "part.json"
            command = [sys.executable, str(HERE / "run.py"), "--worker", str(part), "--only", group]
            command += ["--threads", str(threads), *(["--quick"] if options.quick else [])]
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(threads)}
            if subprocess.run(command, env=environment).returncode:
                sys.exit(f"{key} failed")
            results[key] = json.loads(part.read_text())
            part.unlink()
            file.write_text(json.dumps(results, indent=1))
    from page import plot, write_page

    write_page(results, options.output / "benchmarks.md")
    plot(results, options.output / "benchmarks.png")
    print(f"Wrote benchmarks.json, .md and .png to {options.output}.")


if __name__ == "__main__":
    main()
