"""Packages are released one by one: from core 0.1 over core 0.2 to torch 0.2, in a repository made of this one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "src")
AUTHOR = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "A maintainer"), ("EMAIL", "maintainer@example.invalid"))
}


class Repository:
    """The packages and tools of this working tree in a repository without a release."""

    def __init__(self, folder: Path):
        self.folder = folder
        for package in ("core", "torch", "keras"):
            for part in PARTS:
                source, target = (root / "packages" / package / part for root in (ROOT, folder))
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, target)
            self.write(f"packages/{package}/CHANGELOG.md", "# Changes\n\n## Unreleased\n\nAll of it.\n")
        (folder / "tools").mkdir()
        for tool in ("release.py", "smoke.py"):
            shutil.copy(ROOT / "tools" / tool, folder / "tools" / tool)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit("Everything")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, (old, text)
        self.write(path, text.replace(old, new))

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env={**os.environ, **AUTHOR}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, subject: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)

    def change(self, package: str, line: str) -> None:
        """A line in the changelog of a package, committed."""
        self.replace(f"packages/{package}/CHANGELOG.md", "# Changes\n", f"# Changes\n\n## Unreleased\n\n{line}\n")
        self.commit(line)

    def release(self, *arguments: str) -> str:
        """The output of a command of tools/release.py that succeeds."""
        code, output = self.try_release(*arguments)
        assert code == 0, output
        return output

    def try_release(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "tools/release.py", *arguments]
        environment = {**os.environ, **AUTHOR, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def published(self, package: str, version: str, *options: str) -> str:
        """What the gate said of a release that was prepared, tagged and checked."""
        self.release("prepare", package, version, *options)
        gate = self.release("gate", package)
        tag = f"{package}-v{version}"
        self.git("tag", tag)
        self.release("check", tag)
        return gate

    def core_range(self, package: str) -> str:
        text = (self.folder / f"packages/{package}/pyproject.toml").read_text()
        (line,) = (part for part in text.split('"') if part.startswith("trainable-quantizers-core>"))
        return str(Requirement(line).specifier)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture(scope="module")
def after_a_release(tmp_path_factory) -> Repository:
    """For commands that are refused, and so leave it as it is."""
    repository = Repository(tmp_path_factory.mktemp("released") / "repository")
    repository.release("prepare", "core", "0.1.0")
    repository.git("tag", "core-v0.1.0")
    return repository


@pytest.mark.long
def test_core_then_torch_then_a_core_that_breaks_then_a_torch_that_needs_it(repository):
    api = "packages/core/src/trainable_quantizers_core/__init__.py"
    torch = "packages/torch/src/trainable_quantizers_torch/__init__.py"
    assert "works with 0 released packages" in repository.published("core", "0.1.0")
    assert "torch-0.1.0-py3-none-any.whl with trainable_quantizers_core-0.1.0" in repository.published("torch", "0.1.0")
    repository.release("prepare", "keras", "0.1.0")
    repository.git("tag", "keras-v0.1.0")
    assert "## 0.1.0 (" in (repository.folder / "packages/core/CHANGELOG.md").read_text()
    assert repository.release("notes", "core-v0.1.0") == "All of it.\n"

    # A public name goes, and a new one comes, in the development of core 0.2.
    repository.replace(api, '    "c_source",\n', '    "c_source",\n    "c_text",\n')
    repository.replace(api, '    "Program",\n', "")
    repository.write(api, (repository.folder / api).read_text() + "\nc_text = c_source\n")
    repository.change("core", "c_text is new, Program went.")
    code, output = repository.try_release("api", "core")
    assert code
    assert "trainable_quantizers_core.Program: removed from __all__" in output
    assert repository.core_range("torch") == "<0.2,>=0.1"
    repository.release("prepare", "core", "0.2.0.dev0")
    assert repository.core_range("torch") == repository.core_range("keras") == "<0.3,>=0.1"
    assert Requirement(f"core{repository.core_range('torch')}").specifier.contains("0.2.0.dev0", prereleases=True)
    repository.release("api", "core")

    # The released torch does not take this core; the one in the workspace needs it.
    repository.release("prepare", "core", "0.2.0rc1")
    repository.git("tag", "core-v0.2.0rc1")
    repository.change("core", "A last touch.")
    assert "core 0.2.0 works with 0 released packages" in repository.published("core", "0.2.0")
    repository.write(
        torch, (repository.folder / torch).read_text() + "\nfrom trainable_quantizers_core import c_text\n"
    )
    repository.change("torch", "c_text.")
    repository.release("prepare", "torch", "0.2.0.dev0")
    code, output = repository.try_release("gate", "torch")
    assert code
    assert "cannot import name 'c_text'" in output
    gate = repository.published("torch", "0.2.0", "--lowest-core", "0.2.0")
    assert repository.core_range("torch") == "<0.3,>=0.2.0"
    assert "works with 1 released packages" in gate
    assert "with trainable_quantizers_core-0.2.0" in gate

    # A patch of the old core must break no package that was released with it: this one lacks what Keras alone imports.
    files = "packages/core/src/trainable_quantizers_core/files.py"
    repository.git("switch", "--quiet", "--create", "core-0.1", "core-v0.1.0")
    repository.write(files, (repository.folder / files).read_text() + "\ndel put_in_place\n")
    repository.change("core", "A bad patch.")
    repository.release("prepare", "core", "0.1.1")
    code, output = repository.try_release("gate", "core")
    assert code
    assert "cannot import name 'put_in_place'" in output

    # Nor what the listed names gave to users.
    repository.replace(api, "Recipe\n", "Recipe as OtherRecipe\n")
    repository.git("tag", "core-v0.1.1")
    code, output = repository.try_release("check", "core-v0.1.1")
    assert code
    assert "core 0.1.1 breaks what 0.1.0 has" in output
    assert "trainable_quantizers_core.Recipe" in output


def test_wheels_of_all_releases_are_built_from_their_tags(repository):
    for version in ("0.1.0", "0.1.1"):
        if version != "0.1.0":
            repository.change("core", "Better.")
        repository.release("prepare", "core", version)
        repository.git("tag", f"core-v{version}")
    repository.release("index", "wheels")
    assert sorted(path.name for path in (repository.folder / "wheels").iterdir()) == [
        "trainable_quantizers_core-0.1.0-py3-none-any.whl",
        "trainable_quantizers_core-0.1.1-py3-none-any.whl",
    ]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.1", "must be X.Y.Z"),
        ("v0.1.0", "must be X.Y.Z"),
        ("0.01.0", "must be X.Y.Z"),
        ("0.1.0a1", "must be X.Y.Z"),
        ("0.1.1rc01", "must be X.Y.Z"),
        ("0.0.9", "does not come after"),
        ("0.1.0", "does not come after"),
        ("0.1.1", "needs an entry"),
    ],
)
def test_a_version_that_cannot_follow_is_refused(version, says, after_a_release):
    code, output = after_a_release.try_release("prepare", "core", version)
    assert code
    assert says in output


def test_the_core_has_no_range_of_the_core(after_a_release):
    code, output = after_a_release.try_release("prepare", "core", "0.2.0", "--lowest-core", "0.1.0")
    assert code
    assert "--lowest-core is for torch and keras" in output


def test_a_release_holds_nothing_but_itself(repository):
    repository.replace("packages/core/README.md", "# ", "#  ")
    code, output = repository.try_release("prepare", "core", "0.1.0")
    assert code
    assert "one commit" in output


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("v0.1.0", "must be core-vX.Y.Z"),
        ("jax-v0.1.0", "must be core-vX.Y.Z"),
        ("core-v1", "must be X.Y.Z"),
        ("core-v9.9.9", "does not name the version"),
        ("torch-v0.1.0", "has no entry"),  # nothing was prepared
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tag, says, after_a_release):
    code, output = after_a_release.try_release("check", tag)
    assert code
    assert says in output


def test_the_entry_of_another_version_that_begins_alike_is_none(repository):
    repository.write("packages/core/CHANGELOG.md", "# Changes\n\n## 0.1.10 (2026-01-01)\n\nAll of it.\n")
    code, output = repository.try_release("notes", "core-v0.1.1")
    assert code
    assert "has no entry '## 0.1.1 (YYYY-MM-DD)'" in output
    assert repository.release("notes", "core-v0.1.10") == "All of it.\n"
