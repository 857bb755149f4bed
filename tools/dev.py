"""Sets itself up and runs a task of the workspace: ``python3 tools/dev.py TASK [arguments]``.

Needs Python >= 3.10 and a package index. Makes ``.venv`` with hatch, whose environments (under ``.hatch``)
hold everything else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HATCH = "hatch>=1.16.3,<2"
PACKAGES = ("core", "torch", "keras")


def hatch(*arguments: str, folder: Path = ROOT, **environment: str) -> None:
    """Run hatch in a folder of the workspace, first installing it into ``.venv``; a failure ends the program."""
    scripts = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    program = scripts / ("hatch.exe" if os.name == "nt" else "hatch")
    if not program.exists():
        print("Setting up .venv with hatch (once) ...", flush=True)
        venv.create(ROOT / ".venv", with_pip=True)  # into one that is there, too
        run(str(scripts / "python"), "-m", "pip", "install", "--quiet", HATCH)
    run(str(program), *arguments, folder=folder, HATCH_DATA_DIR=str(ROOT / ".hatch"), **environment)


def run(*command: str, folder: Path = ROOT, **environment: str) -> None:
    """Run a command in a folder of the workspace, outside any environment of hatch; a failure ends the program."""
    outside = {key: value for key, value in os.environ.items() if key not in ("HATCH_ENV", "HATCH_ENV_ACTIVE")}
    code = subprocess.run(command, cwd=folder, env={**outside, **environment}).returncode
    if code:
        sys.exit(code)


def demo(arguments: list[str]) -> None:
    """Train, quantize, train, convert, save and reload a small network on real data; see docs/examples."""
    parser = argparse.ArgumentParser(prog="dev.py demo", add_help=False)
    parser.add_argument("--framework", choices=["torch", "keras"], default="torch")
    chosen, rest = parser.parse_known_args(arguments)
    hatch("run", f"demo-{chosen.framework}:demo", *rest)


def test(arguments: list[str]) -> None:
    """Every package's tests and tests-integration: PyTorch with Keras 3, then Keras 2 in both its forms."""
    heading("PyTorch and Keras 3 (TensorFlow 2.21)")
    hatch("run", "test:all", *arguments)
    heading("Keras 2 as tf-keras (TensorFlow 2.21)")
    hatch("run", "test:legacy", *arguments, TF_USE_LEGACY_KERAS="1")
    heading("Keras 2 (TensorFlow 2.15)")
    if sys.version_info >= (3, 12):
        print("TensorFlow 2.15 needs Python 3.11 or older: Keras 2 was tested as tf-keras above.")
    else:
        hatch("run", "keras2:all", *arguments)


def oldest(arguments: list[str]) -> None:
    """Core and Keras on Python 3.10, where that is installed: whole walks, not everything."""
    pythons = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))]
    works = [each for each in pythons if each and not subprocess.run([each, "-V"], capture_output=True).returncode]
    heading("Python 3.10")
    if not works:
        print("There is no Python 3.10 here: nothing was tested on it.")
        return
    hatch("run", "oldest:smoke", *arguments, HATCH_PYTHON=works[0])


def lint(arguments: list[str]) -> None:
    """Ruff and mypy; ``lint fix`` mends what can be mended."""
    hatch("run", f"lint:{'fix' if 'fix' in arguments else 'check'}")


def build(arguments: list[str]) -> None:
    """Wheel and sdist of each package (or of those named), under its ``dist``."""
    if unknown := sorted(set(arguments) - set(PACKAGES)):
        sys.exit(f"There is no package {unknown[0]!r}: build {', '.join(PACKAGES)}, or all of them without a name.")
    for package in arguments or PACKAGES:
        hatch("build", folder=ROOT / "packages" / package)


def bench(arguments: list[str]) -> None:
    """Benchmarks against float, the frameworks' own operations and other packages; see docs/benchmarks.md."""
    hatch("run", "bench:run", *arguments)


def zoo(arguments: list[str]) -> None:
    """Public architectures all the way, from float to file: zoo [torch|keras]; see docs/zoo-torch.md."""
    hatch("run", f"{'zoo-keras' if 'keras' in arguments else 'zoo-torch'}:run", *arguments)


def agreement(arguments: list[str]) -> None:
    """EfficientNet-Lite0 quantized without training, beside itself in float; see docs/recipes.md."""
    hatch("run", "zoo-torch:agreement")


def exact(arguments: list[str]) -> None:
    """Outputs that change on other devices: exact [torch|keras] [networks]; see docs/exact.md."""
    networks = [each for each in arguments if each not in ("torch", "keras")]
    hatch("run", f"{'zoo-keras' if 'keras' in arguments else 'zoo-torch'}:exact", *networks)


def accuracy(arguments: list[str]) -> None:
    """Digits at few bits without training, as calibrated and reconstructed; see docs/training.md."""
    hatch("run", "test:accuracy", *arguments)


def heading(text: str) -> None:
    """A line that separates the parts of a long run."""
    print(f"\n=== {text} ===", flush=True)


def main() -> None:
    """Hand over to the task."""
    tasks = {task.__name__: task for task in (demo, test, oldest, lint, build, bench, zoo, agreement, exact, accuracy)}
    lines = "\n".join(f"  {name:10}{(task.__doc__ or '').splitlines()[0]}" for name, task in tasks.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"tasks:\n{lines}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=tasks, metavar="task")
    known, rest = parser.parse_known_args(sys.argv[1:2])
    tasks[known.task](rest + sys.argv[2:])


if __name__ == "__main__":
    main()
