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
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HATCH = "hatch>=1.16.3,<2"
PACKAGES = ("core", "torch", "keras")
BYTECODE = {"PIP_NO_COMPILE": "0", "PYTHONDONTWRITEBYTECODE": ""}
"""Compile what is imported, once, not all that pip installs; pip reads options that begin with "no" inversely."""
VERSIONS = ("torch-lowest", "torch-newest", "keras2-lowest", "keras3-lowest", "keras-newest")


def hatch(*arguments: str, folder: Path = ROOT, **environment: str) -> None:
    """Run hatch in a folder of the workspace; a failure ends the program."""
    run(str(set_up()), *arguments, folder=folder, HATCH_DATA_DIR=str(ROOT / ".hatch"), **environment)


def set_up() -> Path:
    """The program hatch, installed into ``.venv`` if it is missing."""
    scripts = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    program = scripts / ("hatch.exe" if os.name == "nt" else "hatch")
    if not program.exists():
        print("Setting up .venv with hatch (once) ...", flush=True)
        venv.create(ROOT / ".venv", with_pip=True)  # also if it exists
        run(str(scripts / "python"), "-m", "pip", "install", "--quiet", HATCH)
    return program


def run(*command: str, folder: Path = ROOT, **environment: str) -> None:
    """Run a command in a folder of the workspace, outside any environment of hatch; a failure ends the program."""
    outside = {key: value for key, value in os.environ.items() if key not in ("HATCH_ENV", "HATCH_ENV_ACTIVE")}
    code = subprocess.run(command, cwd=folder, env={**outside, **BYTECODE, **environment}).returncode
    if code:
        sys.exit(code)


def demo(arguments: list[str]) -> None:
    """Train, quantize, train, convert, save and reload a small network on real data; see docs/examples."""
    parser = argparse.ArgumentParser(prog="dev.py demo", add_help=False)
    parser.add_argument("--framework", choices=["torch", "keras"], default="torch")
    chosen, rest = parser.parse_known_args(arguments)
    hatch("run", f"demo-{chosen.framework}:demo", *rest)


def test(arguments: list[str]) -> None:
    """Tests of all packages and tests-integration; ``test everything``: the long ones, all of Keras 2, tf-keras too."""
    everything, arguments = "everything" in arguments, [each for each in arguments if each != "everything"]
    python = oldest_python()
    set_up()
    with ThreadPoolExecutor() as pool:
        made = pool.submit(hatch, "env", "create", "test")  # meanwhile, where it is missing
        if python:
            with part(f"Keras 2 (TensorFlow 2.15) on Python {version_of(python)}"):
                hatch("run", f"keras2:{'all' if everything else 'beside-keras3'}", *arguments, HATCH_PYTHON=python)
        made.result()
    with part("PyTorch and Keras 3 (TensorFlow 2.21)"):
        hatch("run", f"test:{'all' if everything else 'usual'}", *arguments)
    if everything or not python:
        with part("Keras 2 as tf-keras (TensorFlow 2.21)"):
            hatch("run", "test:legacy", *arguments, TF_USE_LEGACY_KERAS="1")


def version_of(python: str) -> str:
    """The version of a Python executable, such as 3.10.13; empty if it does not run."""
    return subprocess.run([python, "-V"], capture_output=True, text=True).stdout.removeprefix("Python ").strip()


def oldest_python() -> str | None:
    """Python 3.10 if it is installed, else the running one, if TensorFlow 2.15 supports it."""
    pythons = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))]
    works = [each for each in pythons if each and version_of(each)]
    return works[0] if works else sys.executable if sys.version_info < (3, 12) else None


def lint(arguments: list[str]) -> None:
    """Ruff and mypy; ``lint fix`` applies all automatic fixes."""
    with part("Ruff and mypy"):
        hatch("run", f"lint:{'fix' if 'fix' in arguments else 'check'}")


def build(arguments: list[str]) -> None:
    """Wheel and sdist of each package (or of those named), under its ``dist``."""
    if unknown := sorted(set(arguments) - set(PACKAGES)):
        sys.exit(f"There is no package {unknown[0]!r}: build {', '.join(PACKAGES)}, or all of them without a name.")
    for package in arguments or PACKAGES:
        hatch("build", folder=ROOT / "packages" / package)


def release(arguments: list[str]) -> None:
    """Releases of one package: release [prepare|check|notes|api|gate|index]; see RELEASING.md."""
    hatch("run", "test:python", "tools/release.py", *arguments)


def versions(arguments: list[str]) -> None:
    """The oldest and newest frameworks: versions [torch-lowest|torch-newest|...] [--record]; see README.md."""
    options = [each for each in arguments if each.startswith("--")]
    for environment in [each for each in arguments if each not in options] or VERSIONS:
        print(f"\n=== {environment} ===", flush=True)
        hatch("run", f"{environment}:check", *options)


def docs(arguments: list[str]) -> None:
    """Build the site, strictly, in ``site``; ``docs serve`` shows it, ``docs plots`` redraws its plots."""
    hatch("run", "plots:draw" if "plots" in arguments else f"docs:{'serve' if 'serve' in arguments else 'build'}")


def bench(arguments: list[str]) -> None:
    """Benchmarks against float, the frameworks' own operations and other packages; see docs/benchmarks.md."""
    hatch("run", "bench:run", *arguments)


def zoo(arguments: list[str]) -> None:
    """Public architectures through all steps, from float to file: zoo [torch|keras]; see docs/zoo-torch.md."""
    hatch("run", f"{'zoo-keras' if 'keras' in arguments else 'zoo-torch'}:run", *arguments)


def agreement(arguments: list[str]) -> None:
    """EfficientNet-Lite0 quantized without training, beside itself in float; see docs/recipes.md."""
    hatch("run", "zoo-torch:agreement")


def exact(arguments: list[str]) -> None:
    """Outputs that change on other devices: exact [torch|keras] [networks]; see docs/exact.md."""
    networks = [each for each in arguments if each not in ("torch", "keras")]
    hatch("run", f"{'zoo-keras' if 'keras' in arguments else 'zoo-torch'}:exact", *networks)


def accumulators(arguments: list[str]) -> None:
    """The accuracy that a limit on the accumulators costs, on the digits; see docs/exact.md."""
    hatch("run", "test:python", "tools/accumulators.py")


def mutants(arguments: list[str]) -> None:
    """Break single lines of the packages, one at a time: mutants [part of a file's path]; see docs/conformance.md."""
    hatch("run", "test:mutants", *arguments)


def fuzz(arguments: list[str]) -> None:
    """Damaged data for every reader: fuzz [--cases 10000] [--seed 0]; see docs/reliability.md."""
    hatch("run", "test:python", "tools/fuzz.py", *arguments)


def endurance(arguments: list[str]) -> None:
    """Time and memory of deep models, many conversions and long training; see docs/reliability.md."""
    hatch("run", "test:python", "tools/endurance.py", *arguments)


def toolkit(arguments: list[str]) -> None:
    """The Model Compression Toolkit on our infrastructure: toolkit [torch|keras]; see docs/migration-mct.md."""
    if sys.version_info >= (3, 12):
        sys.exit("The toolkit needs TensorFlow 2.15, and that Python 3.11 or older.")
    hatch("run", "toolkit:run", *arguments)


def accuracy(arguments: list[str]) -> None:
    """Accuracy at few bits: accuracy page (docs/accuracy.md) or digits (docs/without-labels.md, docs/few-bits.md)."""
    task, *rest = arguments or [""]
    if task == "digits":
        hatch("run", "test:python", "tools/accuracy/digits_trials.py", *rest)
    elif task == "page":
        hatch("run", "accuracy:page", *rest, OMP_NUM_THREADS="1")
    else:
        sys.exit("accuracy page: ours beside other packages; accuracy digits: reconstruction, widths and tables.")


@contextmanager
def part(title: str) -> Iterator[None]:
    """One part of a long run: a line before it, and one with its seconds after it."""
    print(f"\n=== {title} ===", flush=True)
    start = time.monotonic()
    try:
        yield
    finally:
        print(f"=== {time.monotonic() - start:.0f} s: {title} ===", flush=True)


def main() -> None:
    """Run the task."""
    regular = (demo, test, lint, docs, build, release, versions)
    measuring = (bench, zoo, agreement, exact, accumulators, accuracy, mutants, fuzz, endurance, toolkit)
    tasks = {task.__name__: task for task in (*regular, *measuring)}
    lines = "\n".join(f"  {name:13}{(task.__doc__ or '').splitlines()[0]}" for name, task in tasks.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"tasks:\n{lines}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=tasks, metavar="task")
    known, rest = parser.parse_known_args(sys.argv[1:2])
    tasks[known.task](rest + sys.argv[2:])


if __name__ == "__main__":
    main()
