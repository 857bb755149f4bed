"""The wheels install and work without the other framework."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = {"torch": ("torch", "tensorflow"), "keras": ("tensorflow", "torch")}
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


def needed(*names: str) -> set[str]:
    """Distributions and all that they ask for, extras aside."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            asked = [Requirement(each) for each in distribution(name).requires or ()]
            waiting += [each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def link(names: set[str], folder: Path) -> None:
    """Distributions of this environment in another one: they are gigabytes."""
    here = Path(sysconfig.get_path("purelib"))
    parts = {Path(file).parts[0] for name in names for file in distribution(name).files or ()}
    for part in parts - {"..", "__pycache__"}:
        (folder / part).symlink_to(here / part)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_wheels_install_and_work_without_the_other_framework(name, wheels, tmp_path):
    framework, absent = FRAMEWORKS[name]
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    ours = {f"trainable-quantizers-{package}" for package in ("core", name)}
    link(needed(framework, *ours) - ours, next((tmp_path / "env" / "lib").glob("python*/site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-compile", wheels["core"], wheels[name])
    assert "No broken requirements" in run(*pip, "check")
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
