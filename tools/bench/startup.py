"""Benchmarks the costs beside training: imports, preparing and converting, and a step's peak memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

IMPORTS = {
    "torch": ("torch, mct_quantizers.pytorch.quantizers", "trainable_quantizers_torch"),
    "keras": ("tensorflow, mct_quantizers.keras.quantizers", "trainable_quantizers_keras"),
}
IMPORT = """
import time
import {before}, mct_quantizers
start = time.perf_counter()
import {package}
print(time.perf_counter() - start)
"""
DEPTH = """
import sys, time
sys.path.insert(0, {here!r})
import {module}_training as training
import json
print(json.dumps(training.depth({layers})))
"""
MEMORY = """
import sys, resource
sys.path.insert(0, {here!r})
import {module}_training as training
training.run_steps({name!r}, {kind!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
HERE = str(Path(__file__).parent)


def output(code: str) -> Any:
    """The last line that a fresh process prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(framework: str, quick: bool) -> dict[str, Any]:
    """Run every benchmark of this group; returns its tables."""
    before, package = IMPORTS[framework]
    code = IMPORT.format(before=before, package=package)
    seconds = [output(code) for _ in range(2 if quick else 7)]
    results: dict[str, Any] = {"import beyond the framework": {"seconds": round(statistics.median(seconds), 3)}}
    for layers in (10, 20) if quick else (10, 30, 100):
        results[f"{layers} layers"] = output(DEPTH.format(here=HERE, module=framework, layers=layers))
    for name in ("MobileNet-like", "transformer-like"):
        peak = {
            kind: [
                output(MEMORY.format(here=HERE, module=framework, name=name, kind=kind))
                for _ in range(1 if quick else 3)
            ]
            for kind in ("none", "float", "quantized")
        }
        results[f"{name} peak memory"] = {kind: round(statistics.median(values)) for kind, values in peak.items()}
    return results
