"""Timing that tolerates a noisy machine: each round runs all cases, as ratios to the baseline of that round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Result = dict[str, Any]


def compare(cases: Mapping[str, Callable[[], Any]], seconds: float = 3.0, at_least: int = 9) -> Result:
    """Median milliseconds of each case, and quartiles of its ratio to the first one, which is the baseline.

    Args:
        cases: The functions to run, by name; the first is the baseline.
        seconds: The time to run, for at least ``at_least`` rounds.
        at_least: Rounds.
    """
    for _ in range(2):
        for case in cases.values():
            case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while len(times[next(iter(cases))]) < at_least or time.perf_counter() < end:
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - start)
    gc.enable()
    baseline = times[next(iter(cases))]
    results = {}
    for name, measured in times.items():
        ratios = [one / other for one, other in zip(measured, baseline, strict=True)]
        lower, median, upper = statistics.quantiles(ratios, n=4)
        results[name] = {
            "milliseconds": round(1e3 * statistics.median(measured), 4),
            "ratio": round(median, 3),
            "quartiles": [round(lower, 3), round(upper, 3)],
        }
    return {"rounds": len(baseline), "cases": results}
