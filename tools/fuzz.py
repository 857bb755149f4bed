"""Feeds damaged data to every reader: each case must end in a result or a typed error, in bounded time.

``python3 tools/dev.py fuzz [--cases 10000] [--seed 0]``. Prints what escaped, and exits with 1 if anything did.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from trainable_quantizers_core import (
    THRESHOLD,
    Program,
    QuantizationMethod,
    QuantizerError,
    Recipe,
    TensorStatistics,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.integer.step import Step, Value
from trainable_quantizers_core.quantizer.base_config import config_from_dict
from trainable_quantizers_core.report.data import ModelReport, TensorReport
from trainable_quantizers_core.report.sensitivity import QuantizerSensitivity, Sensitivity
from trainable_quantizers_core.training.parameter_file import QuantizerState, load_parameters, save_parameters

SECONDS = 5.0  # limit of a case, on a busy machine

_PLAIN: tuple[Any, ...] = (
    *(None, True, -1, 0, 3.5, "", "threshold", "$array", [], {}, [[]], b"\x00"),
    *(float("nan"), float("inf"), -0.0, 1e308, 2**70, 10**5000, -(2**63)),
    *("a" * 10_000, "\x00", "../../etc", "<script>", "\ud800"),
)
HOSTILE: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in _PLAIN),
    lambda: {"$array": [1, "x"], "dtype": "float32"},
    lambda: {"$array": [1.0], "dtype": "object"},
    lambda: {"$array": [1.0], "dtype": "float32", "shape": [10**12]},
    lambda: {"$enum": "QuantizationMethod", "name": "NONE_OF_THEM"},
    lambda: {"$enum": [], "name": {}},
    lambda: {"$tuple": 5},
    lambda: {"$float": "x"},
    lambda: nested(2_000),
    lambda: {1: 2, None: 3},
    lambda: object(),
    lambda: np.array([1, "a"], dtype=object),
    lambda: np.zeros((0, 3)),
    lambda: list(range(20_000)),
]


def nested(depth: int) -> Any:
    """A deeply nested list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def damaged(value: Any, draw: random.Random) -> Any:
    """A copy in which one item is replaced, missing, or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        copy = dict(value)
        key = draw.choice(list(copy))
        kind = draw.random()
        if kind < 0.15:
            del copy[key]
        elif kind < 0.3:
            copy[str(key) + "x"] = draw.choice(HOSTILE)()
        else:
            copy[key] = damaged(copy[key], draw)
        return copy
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], damaged(value[at], draw), *value[at + 1 :]]
    return draw.choice(HOSTILE)()


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut, doubled or inserted."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(found) + 1)
        kind = draw.random()
        if kind < 0.4 and at < len(found):
            found[at] = draw.randrange(256)
        elif kind < 0.6:
            del found[at : at + draw.randrange(1, 40)]
        elif kind < 0.8:
            found[at:at] = draw.choice((b"[", b"{", b'"', b"1e999", b"\xff", b"a.a.a.", b"9" * 5000, b"\n[[rules]]\n"))
        else:
            found[at:at] = found[: draw.randrange(60)]
    return bytes(found)


def readers(folder: Path) -> dict[str, Callable[[random.Random], Any]]:
    """Functions, by name, that each pass one damaged input to a reader."""
    weights = TrainableQuantizerWeightsConfig(
        QuantizationMethod.POWER_OF_TWO, 8, {THRESHOLD: np.array([1, 2], np.float32)}, True, 0, True, 2.0**-20
    )
    activation = TrainableQuantizerActivationConfig(
        QuantizationMethod.UNIFORM, 4, {"range_min": -1.0, "range_max": 2.0}, True, 2.0**-20
    )
    recipe = Recipe.from_dict(
        {
            "name": "npu",
            "weights": {"num_bits": 4, "granularity": "per_channel"},
            "activations": {"num_bits": 8},
            "rules": [{"type": "conv", "weights": {"num_bits": 2}}, {"name": "head*", "skip": True}],
        }
    )
    method = QuantizationMethod.SYMMETRIC
    tensor = TensorReport("conv", "weight", "weights", method, 4, True, {THRESHOLD: np.float32(1)})
    costs = Sensitivity((QuantizerSensitivity("conv", "weight", 4, 0.1),), 0.1)
    report = ModelReport("net", "PyTorch", (tensor,), accuracies={"float": 0.5}, sensitivity=costs)
    state = QuantizerState(
        layer="conv",
        attribute="weight",
        target="weights",
        quantizer="Q",
        method=method,
        num_bits=4,
        signed=True,
        per_channel=True,
        values={THRESHOLD: np.array([1, 2], np.float32)},
    )
    statistics = TensorStatistics()
    statistics.update(np.linspace(-1, 2, 100, dtype=np.float32))
    for suffix in (".toml", ".json"):
        recipe.to_file(folder / f"recipe{suffix}")
    save_parameters(folder / "parameters.safetensors", [state], "PyTorch")
    small_program().save(folder / "program.safetensors")

    def arguments(draw: random.Random) -> Any:
        config = draw.choice((weights, activation))
        name = draw.choice(list(vars(config)))
        return dataclasses.replace(config, **{name: damaged(getattr(config, name), draw)})

    def file(name: str, read: Callable[[Path], Any]) -> Callable[[random.Random], Any]:
        whole = (folder / name).read_bytes()

        def case(draw: random.Random) -> Any:
            path = folder / f"damaged{Path(name).suffix}"
            path.write_bytes(damaged_bytes(whole, draw))
            return read(path)

        return case

    return {
        "arguments of configurations": arguments,
        "dictionaries of configurations": lambda draw: config_from_dict(damaged(weights.to_dict(), draw)),
        "JSON of configurations": lambda draw: TrainableQuantizerWeightsConfig.from_json(text(weights.to_json(), draw)),
        "dictionaries of recipes": lambda draw: Recipe.from_dict(damaged(recipe.to_dict(), draw)),
        "TOML files of recipes": file("recipe.toml", Recipe.from_file),
        "JSON files of recipes": file("recipe.json", Recipe.from_file),
        "dictionaries of reports": lambda draw: ModelReport.from_dict(damaged(report.to_dict(), draw)),
        "JSON of reports": lambda draw: ModelReport.from_json(text(report.to_json(), draw)),
        "dictionaries of statistics": lambda draw: TensorStatistics.from_dict(damaged(statistics.to_dict(), draw)),
        "files of parameters": file("parameters.safetensors", load_parameters),
        "files of programs": file("program.safetensors", Program.load),
    }


def text(whole: str, draw: random.Random) -> str:
    """A damaged text; sometimes JSON of a damaged value."""
    if draw.random() < 0.5:
        try:
            return json.dumps(damaged(json.loads(whole), draw))
        except (TypeError, ValueError, RecursionError):
            pass
    return damaged_bytes(whole.encode(), draw).decode(errors="replace")


def small_program() -> Program:
    """X + 1 in integers."""
    value = Value((2,), "integer", -3, None, 1, -128, 127)
    step = Step("add", "sum", (0, "one"), 1, {"shifts": [0, 0]})
    return Program([value, value], [step], {"one": np.array([1], np.int32)}, [0], {"y": 1}, ["made by hand"])


def main() -> int:
    """Run the cases; returns the number of kinds of escapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    escapes: Counter[str] = Counter()
    results: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cases = readers(Path(folder))
        names = list(cases)
        for number in range(chosen.cases):
            name = names[number % len(names)]
            begin = time.perf_counter()
            try:
                cases[name](draw)
                results["read"] += 1
            except QuantizerError:
                results["refused"] += 1
            except Exception as error:
                escapes[f"{name}: {type(error).__name__}: {str(error)[:100]}"] += 1
            if time.perf_counter() - begin > SECONDS:
                escapes[f"{name}: took more than {SECONDS} s"] += 1
    seconds = time.perf_counter() - start
    print(f"{chosen.cases} cases in {seconds:.0f} s: {dict(results)}, {sum(escapes.values())} escaped.")
    for escape, count in escapes.most_common():
        print(f"{count:6}  {escape}")
    return len(escapes)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
