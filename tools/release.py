"""What a release tag promises: ``python tools/release.py check torch-v0.1.0``.

Fails unless the tag names a package, its version is the one in the package, and the changelog has an entry
for it; prints ``package=NAME`` for the workflow.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent.parent / "packages"


def version_of(package: str) -> str:
    """The version that the package's source states."""
    path = PACKAGES / package / "src" / f"trainable_quantizers_{package}" / "_version.py"
    found = re.fullmatch(r'__version__ = "([^"]+)"\n', path.read_text())
    if found is None:
        raise SystemExit(f'{path.name} of {package} must be the one line __version__ = "X.Y.Z".')
    return found[1]


def check(tag: str) -> str:
    """The package that ``tag`` releases; ends the program if the tag does not fit it."""
    found = re.fullmatch(r"(core|torch|keras)-v(\d+\.\d+\.\d+(?:\.dev\d+|rc\d+)?)", tag)
    if found is None:
        raise SystemExit(
            f"A tag must be core-vX.Y.Z, torch-vX.Y.Z or keras-vX.Y.Z (or X.Y.ZrcN, X.Y.Z.devN), got {tag!r}."
        )
    package, version = found.groups()
    if version != version_of(package):
        raise SystemExit(f"The tag {tag} does not name the version {version_of(package)} of packages/{package}.")
    changelog = (PACKAGES / package / "CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(version)}(?!\S)", changelog, re.MULTILINE):
        raise SystemExit(f"packages/{package}/CHANGELOG.md has no entry '## {version}'.")
    return package


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "check":
        raise SystemExit(__doc__)
    print(f"package={check(sys.argv[2])}")
