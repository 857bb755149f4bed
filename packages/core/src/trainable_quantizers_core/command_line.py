"""The command ``trainable-quantizers``: inspects files, and calls a framework package where it needs a model."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from trainable_quantizers_core.errors import QuantizerError, invalid, nearest
from trainable_quantizers_core.recipe.recipe import Recipe
from trainable_quantizers_core.training.matching import match
from trainable_quantizers_core.training.parameter_file import QuantizerState, load_parameters

_FRAMEWORKS = {
    ".keras": "trainable_quantizers_keras",
    ".h5": "trainable_quantizers_keras",
    ".pt": "trainable_quantizers_torch",
    ".pth": "trainable_quantizers_torch",
    ".pt2": "trainable_quantizers_torch",
}
_DIFFERENT, _MISTAKE = 1, 2
_PROGRAM = "trainable-quantizers"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 on success, 1 if a comparison found differences, 2 for a usage error (one line)."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (QuantizerError, ImportError, OSError) as error:
        line = " ".join(str(error).split())  # one line from several, as frameworks write them
        print(f"{_PROGRAM}: {line.removeprefix(f'{_PROGRAM}: ')}", file=sys.stderr)
        return _MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Look at quantized models and their files.")
    commands = parser.add_subparsers(required=True, metavar="command")

    inspect = commands.add_parser("inspect", help="show a recipe (.toml, .json) or a parameter file (.safetensors)")
    inspect.add_argument("file", type=Path)
    inspect.set_defaults(command=_inspect)

    compare = commands.add_parser("compare", help="compare two parameter files; exit with 1 if they differ")
    compare.add_argument("one", type=Path)
    compare.add_argument("other", type=Path)
    compare.set_defaults(command=_compare)

    verify = commands.add_parser("verify", help="compare two models on data; exit with 1 if they differ")
    verify.add_argument("trained", type=Path, help="a .keras, .h5, .pt or .pth file")
    verify.add_argument("deployed", type=Path, help="a .keras, .h5, .pt, .pth or .pt2 file")
    verify.add_argument("--tolerance", type=_tolerance, default=0.0, help="largest difference that passes (0)")
    verify.set_defaults(command=_verify)

    report = commands.add_parser("report", help="show what quantization does to a model")
    report.add_argument("model", type=Path, help="a .keras, .h5, .pt or .pth file")
    report.add_argument("--html", type=Path, help="write a page to this file rather than print a table")
    report.set_defaults(command=_report)

    for command in (verify, report):
        needed = command is verify
        command.add_argument("--data", type=Path, required=needed, help="an .npz file: one array for each input")
        command.add_argument("--trust", action="store_true", help="unpickle .pt files, which can run any code")

    conformance = commands.add_parser("conformance", help="check every promise of a package's quantizers")
    conformance.add_argument("options", nargs=argparse.REMAINDER, help="those of python -m ...conformance")
    conformance.set_defaults(command=_conformance)
    return parser


def _tolerance(text: str) -> float:
    """A tolerance other than NaN, with which any two models would pass."""
    value = float(text)
    if not (0 <= value < math.inf):
        raise ValueError
    return value


def _inspect(options: argparse.Namespace) -> int:
    if options.file.suffix.lower() == ".safetensors":
        _print_states(load_parameters(options.file))
        return 0
    recipe = Recipe.from_file(options.file)
    for title, value in recipe.to_dict().items():
        if title != "rules":
            print(f"{title}: {_in_words(value)}")
    for number, rule in enumerate(recipe.rules, 1):
        changes = {key: value for key, value in rule.to_dict().items() if key not in ("name", "type", "position")}
        print(f"rule {number}, {rule.conditions}: {_in_words(changes)}")
    return 0


def _in_words(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    texts = {key: f"({_in_words(inner)})" if isinstance(inner, dict) else f"= {inner}" for key, inner in value.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def _print_states(states: Sequence[QuantizerState]) -> None:
    rows = [("quantizer", "bits", "method", "parameters")]
    for state in states:
        sign = "signed" if state.signed else "unsigned"
        values = ", ".join(f"{name} {_range_of(value)}" for name, value in state.values.items())
        rows.append((str(state), str(state.num_bits), f"{state.method.name.lower()}, {sign}", values))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _range_of(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"{value:.6g}"
    return f"{value.min():.6g} to {value.max():.6g} ({value.size} channels)"


def _compare(options: argparse.Namespace) -> int:
    pairs = match(load_parameters(options.one), load_parameters(options.other))
    differing = 0
    for state, other in pairs:
        for name, value in state.values.items():
            moved = np.abs(value - other.values[name])
            if moved.any():
                differing += 1
                share = f"{np.count_nonzero(moved)} of {moved.size} values, " if moved.ndim else ""
                print(f"{state} {name}: {share}by up to {moved.max():.6g}")
    print(f"{differing} of {sum(len(state.values) for state, _ in pairs)} parameters differ.")
    return _DIFFERENT if differing else 0


def _verify(options: argparse.Namespace) -> int:
    package = _package(options.trained)
    if _package(options.deployed) is not package:
        advice = "transfer learned parameters with save_quantizers, and compare the parameter files"
        raise invalid("verify", "deployed", f"of the framework of {options.trained}", str(options.deployed), advice)
    files = package.command_line
    models = [files.load_model(path, options.trust) for path in (options.trained, options.deployed)]
    found = package.verify(*models, [files.as_batch(_arrays(options.data))])
    print(found)
    return _DIFFERENT if found.largest > options.tolerance else 0


def _report(options: argparse.Namespace) -> int:
    from trainable_quantizers_core.report import print_report, write_html

    package = _package(options.model)
    model = package.command_line.load_model(options.model, options.trust)
    data = None if options.data is None else [package.command_line.as_batch(_arrays(options.data))]
    found = package.report(model, data)
    if options.html is None:
        print_report(found)
    else:
        write_html(found, options.html)
        print(f"Wrote {options.html}.")
    return 0


def _package(path: Path) -> Any:
    """The framework package for a model file."""
    suffix = path.suffix.lower()
    if suffix not in _FRAMEWORKS:
        raise invalid(_PROGRAM, "model", "a model file", str(path), nearest(suffix, _FRAMEWORKS))
    name = _FRAMEWORKS[suffix]
    try:
        import_module(f"{name}.command_line")
        return import_module(name)
    except ModuleNotFoundError as error:
        install = f"pip install {name.replace('_', '-')}"
        raise ImportError(f"{path.name} needs {name.replace('_', '-')}, which is not installed: {install}") from error


def _arrays(path: Path) -> list[np.ndarray]:
    rule, advice = "an .npz file of plain arrays", "write it with numpy.savez(path, inputs)"
    try:
        file = np.load(path, allow_pickle=False)
        arrays = [] if isinstance(file, np.ndarray) else [file[name] for name in file.files]
    except (ValueError, EOFError, BadZipFile) as error:
        raise invalid(_PROGRAM, "data", rule, str(path), advice) from error
    if not arrays:
        raise invalid(_PROGRAM, "data", rule, str(path), advice)
    return arrays


def _conformance(options: argparse.Namespace) -> int:
    try:
        conformance = import_module("trainable_quantizers_core.conformance.__main__")
    except ModuleNotFoundError as error:
        install = 'pip install "trainable-quantizers-core[conformance]"'
        raise ImportError(f"{error.name} is needed here, but not installed: {install}") from error
    return int(conformance.main(options.options))


if __name__ == "__main__":
    sys.exit(main())
