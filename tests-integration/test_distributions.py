"""The wheels install and work without the other framework."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import tensorflow
import torch

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = {
    "torch": (f"torch=={torch.__version__.partition('+')[0]}", "tensorflow"),
    "keras": (f"tensorflow=={tensorflow.__version__}", "torch"),
}
PROGRAM = """
import importlib.util, sys
import trainable_quantizers_{name} as tq
from trainable_quantizers_core.conformance.cases import all_cases
from trainable_quantizers_core.conformance.suite import iterate_trials, load_adapters
assert importlib.util.find_spec("{absent}") is None
assert "{absent}" not in sys.modules
trials = list(iterate_trials(load_adapters("trainable_quantizers_{name}")[:1]))[::97]
for trial in trials:
    trial.run()
print(len(trials), "trials passed without {absent}")
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels() -> dict[str, Path]:
    """As a release builds them."""
    folders = {package: ROOT / "packages" / package / "dist" for package in ("core", "torch", "keras")}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, ROOT / "tools/dev.py", "build", *folders)
    return {package: next(folder.glob("*.whl")) for package, folder in folders.items()}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_wheels_install_and_work_without_the_other_framework(name, wheels, tmp_path):
    framework, absent = FRAMEWORKS[name]
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheels["core"], wheels[name], framework)
    printed = run(python, "-W", "ignore", "-c", PROGRAM.format(name=name, absent=absent))
    assert f"trials passed without {absent}" in printed


def test_wheels_carry_types_and_licence(wheels):
    for package, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        assert f"trainable_quantizers_{package}/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not any("tests" in name for name in names)


def test_framework_packages_depend_on_a_range_of_core_and_never_on_each_other(wheels):
    for name, (_, absent) in FRAMEWORKS.items():
        metadata = next(n for n in zipfile.ZipFile(wheels[name]).namelist() if n.endswith("METADATA"))
        requires = [
            line.partition(": ")[2]
            for line in zipfile.ZipFile(wheels[name]).read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]
        (core,) = (line for line in requires if line.startswith("trainable-quantizers") and "extra" not in line)
        assert ">=" in core
        assert "<" in core
        assert not any(line.startswith(absent) for line in requires)
