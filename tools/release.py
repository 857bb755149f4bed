"""Releases of one package at a time: ``python3 tools/dev.py release prepare core 0.2.0``; see RELEASING.md.

A release is a commit, which ``prepare`` makes, and a tag ``core-v0.2.0``, which ``check`` judges. ``gate`` builds the
wheel that would be released and tries it with the released packages beside it, which it builds from their tags.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import griffe
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LEAVES = ("torch", "keras")
PACKAGES = ("core", *LEAVES)
UNRELEASED = "## Unreleased\n"
CORE_RANGE = re.compile(r'"(trainable-quantizers-core)>=([^,"]+),<([^,"]+)"')


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command in the repository; its failure ends the program."""
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout.decode()


def folder_of(package: str) -> Path:
    """The folder of a package in the repository."""
    return ROOT / "packages" / package


def version_file(package: str) -> Path:
    """The file that states the version of a package."""
    return folder_of(package) / "src" / f"trainable_quantizers_{package}" / "_version.py"


def version_of(package: str) -> str:
    """The version that the source of a package states."""
    found = re.fullmatch(r'__version__ = "([^"]+)"\n', version_file(package).read_text())
    if found is None:
        raise SystemExit(f'_version.py of {package} must be the one line __version__ = "X.Y.Z".')
    return found[1]


def parsed(version: str) -> Version:
    """A version as this repository writes it: X.Y.Z, X.Y.ZrcN or X.Y.Z.devN."""
    number = r"(0|[1-9]\d*)"
    if not re.fullmatch(rf"{number}\.{number}\.{number}((rc|\.dev){number})?", version):
        raise SystemExit(f"A version must be X.Y.Z, X.Y.ZrcN or X.Y.Z.devN, got {version!r}.")
    return Version(version)


def compatible(version: Version) -> tuple[int, ...]:
    """The part of a version that a breaking change raises: major, or minor before 1.0."""
    return version.release[: 1 if version.major else 2]


def released(package: str, *which: str) -> dict[Version, str]:
    """Versions of a package with their tags, oldest first; ``which`` are options of ``git tag`` that choose some."""
    tags = run("git", "tag", "--list", f"{package}-v*", *which).split()
    return dict(sorted((Version(tag.partition("-v")[2]), tag) for tag in tags))


def core_range(package: str, tag: str | None = None) -> SpecifierSet:
    """The versions of the core that a package depends on, in the working tree or at a tag."""
    path = folder_of(package) / "pyproject.toml"
    text = path.read_text() if tag is None else run("git", "show", f"{tag}:{path.relative_to(ROOT)}")
    found = CORE_RANGE.search(text)
    assert found is not None
    return Requirement(found[0].strip('"')).specifier


def set_core_range(package: str, admitted: Version, lowest: str | None = None) -> None:
    """Move the upper end of the range of the core so that it takes ``admitted``, and the lower end to ``lowest``."""
    path = folder_of(package) / "pyproject.toml"
    *same, last = compatible(admitted)
    beyond = ".".join(map(str, (*same, last + 1)))

    def moved(found: re.Match[str]) -> str:
        return f'"{found[1]}>={lowest or found[2]},<{max(found[3], beyond, key=Version)}"'

    path.write_text(CORE_RANGE.sub(moved, path.read_text()))


def prepare(package: str, version: str, lowest_core: str | None) -> None:
    """Set version, changelog and ranges in one commit.

    A version of the core moves the upper ends of the other packages' ranges, so that the workspace can be installed.
    ``.devN`` opens the development of a version and leaves the changelog as it is.
    """
    new = parsed(version)
    lowest = None if lowest_core is None else parsed(lowest_core)
    if package == "core" and lowest is not None:
        raise SystemExit("The core depends on no other core: --lowest-core is for torch and keras.")
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        raise SystemExit("Commit or put away your changes first: a release is one commit.")
    if (latest := max(released(package, "--merged", "HEAD"), default=None)) is not None and new <= latest:
        raise SystemExit(f"The last release of {package} here is {latest}: {version} does not come after it.")
    changelog = folder_of(package) / "CHANGELOG.md"
    if not new.is_devrelease:
        text = changelog.read_text()
        if not re.search(rf"^{UNRELEASED}\n*[^#\s]", text, re.MULTILINE):
            raise SystemExit(f"{changelog.relative_to(ROOT)} needs an entry under '{UNRELEASED.strip()}'.")
        changelog.write_text(text.replace(UNRELEASED, f"## {version} ({datetime.date.today()})\n", 1))
    version_file(package).write_text(f'__version__ = "{version}"\n')
    if package == "core":
        for leaf in LEAVES:
            set_core_range(leaf, new)
    elif lowest is not None:
        set_core_range(package, lowest, str(lowest))
    run("git", "commit", "--quiet", "--all", "--message", f"{package} {version}")
    print(f"Committed {package} {version}. Next: gate {package}, then git tag {package}-v{version}")


def check(tag: str) -> None:
    """Fail unless a tag fits the version, the changelog and the public names of its package."""
    package, version = named_by(tag)
    if version != version_of(package):
        raise SystemExit(f"The tag {tag} does not name the version {version_of(package)} of packages/{package}.")
    if not Version(version).is_devrelease:
        entry(package, version)
    api(package)


def notes(tag: str) -> None:
    """Print the entry of a tag in the changelog, for the notes of the release."""
    print(entry(*named_by(tag)))


def named_by(tag: str) -> tuple[str, str]:
    """The package and the version that a tag names."""
    package, _, version = tag.partition("-v")
    if package not in PACKAGES:
        raise SystemExit(f"A tag must be core-vX.Y.Z, torch-vX.Y.Z or keras-vX.Y.Z, got {tag!r}.")
    return package, str(parsed(version))


def entry(package: str, version: str) -> str:
    """The dated entry of a version in the changelog of its package."""
    changelog = (folder_of(package) / "CHANGELOG.md").read_text()
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n(.*?)(?=^## |\Z)"
    found = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"packages/{package}/CHANGELOG.md has no entry '## {version} (YYYY-MM-DD)'.")
    return found[1].strip()


def api(package: str) -> None:
    """Fail if public names broke since the last release before this one, but the version claims compatibility."""
    before = released(package, "--merged", "HEAD", "--no-contains", "HEAD")
    earlier = {version: tag for version, tag in before.items() if not version.is_prerelease}
    if not earlier:
        print(f"{package} has no release yet: every name is new.")
        return
    last, tag = list(earlier.items())[-1]
    breaks = breakages(package, tag)
    if breaks and compatible(Version(version_of(package))) <= compatible(last):
        raise SystemExit("\n".join([f"{package} {version_of(package)} breaks what {last} has:", *breaks]))
    print(f"{package} {version_of(package)}: {len(breaks)} public names broke since {last}.")


def breakages(package: str, tag: str) -> list[str]:
    """Changes since a tag that break users of a package's listed names, one line each."""
    name = f"trainable_quantizers_{package}"
    with tempfile.TemporaryDirectory() as folder:
        sources = unpack(package, tag, Path(folder)) / "src", folder_of(package) / "src"
        old, new = (griffe.load(name, search_paths=[path], resolve_aliases=True) for path in sources)
        listings = [old, *(module for module in old.modules.values() if module.exports)]
        public = {path for module in listings for path in listed_paths(module)}
        result = [f"{name}.{export}: removed from __all__" for export in sorted({*old.exports} - {*new.exports})]
        for breakage in griffe.find_breaking_changes(old, new):
            if any(f"{breakage.obj.path}.".startswith(f"{path}.") for path in public):
                result.append(f"{breakage.obj.path}: {breakage.kind.value}")
    return list(dict.fromkeys(result))


def listed_paths(module: griffe.Module) -> Iterator[str]:
    """Where a module's ``__all__`` can be found: in the module, and where it comes from."""
    for name in module.exports or ():
        yield f"{module.path}.{name}"
        if (member := module.members.get(str(name))) is not None and member.is_alias:
            yield member.target_path


def unpack(package: str, tag: str, folder: Path) -> Path:
    """The folder of a package as it was at a tag."""
    archive = folder / "archive.zip"
    run("git", "archive", "--output", archive, tag, f"packages/{package}")
    ZipFile(archive).extractall(folder)
    return folder / "packages" / package


def build(source: Path, target: Path) -> Path:
    """The wheel of a package, in a folder of wheels."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
        (wheel,) = Path(folder).iterdir()
        return wheel.replace(target / wheel.name)


def index(folder: Path) -> None:
    """Build every tag of every package into a folder for ``pip --find-links``."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        for tag in released(package).values():
            with tempfile.TemporaryDirectory() as source:
                build(unpack(package, tag, Path(source)), folder)


def gate(package: str) -> None:
    """Try the wheel of a package with released ones.

    A framework package runs with the oldest and the newest released core of its range, and a core with the oldest and
    the newest release of each framework package whose range admits it.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(folder_of(package), Path(folder))
        tags = partners(package)
        for tag in tags:
            together = Path(tempfile.mkdtemp(dir=folder))
            partner, leaf = tag.partition("-")[0], package if package in LEAVES else tag.partition("-")[0]
            other = build(unpack(partner, tag, together), together)
            run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", together / "both", wheel, other)
            print(f"{wheel.name} with {other.name}:")
            smoke = ROOT / "tools" / "smoke.py"
            print(run(sys.executable, smoke, leaf, "--quick", PYTHONPATH=str(together / "both")), end="")
    print(f"{package} {version_of(package)} works with {len(tags)} released packages.")


def partners(package: str) -> list[str]:
    """The tags of the released packages that a package is tried with."""
    if package == "core":
        core = version_of("core")
        fitting = [
            [tag for tag in released(leaf).values() if core_range(leaf, tag).contains(core, prereleases=True)]
            for leaf in LEAVES
        ]
    else:
        cores, admitted = released("core"), core_range(package)
        fitting = [[cores[version] for version in admitted.filter(cores)]]
        if not fitting[0]:
            raise SystemExit(f"No released core is in the range {admitted} of {package}: release core first.")
    return [tag for tags in fitting for tag in dict.fromkeys((*tags[:1], *tags[-1:]))]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(act: Callable[..., object], **arguments: dict[str, Any]) -> None:
        each = commands.add_parser(act.__name__, help=(act.__doc__ or "").splitlines()[0], description=act.__doc__)
        for name, options in arguments.items():
            each.add_argument(name, **options)
        each.set_defaults(act=act)

    package: dict[str, Any] = {"choices": PACKAGES}
    command(
        prepare,
        package=package,
        version={"help": "X.Y.Z, X.Y.ZrcN or X.Y.Z.devN"},
        **{"--lowest-core": {"help": "the oldest core that a framework package takes from now on"}},
    )
    command(check, tag={})
    command(notes, tag={})
    command(api, package=package)
    command(gate, package=package)
    command(index, folder={"type": Path})
    chosen = vars(parser.parse_args())
    chosen.pop("act")(**chosen)


if __name__ == "__main__":
    main()
