"""The versions that were tested: ``python3 tools/dev.py versions [environments] [--record]``.

Runs in each of the environments ``*-lowest`` and ``*-newest`` of ``pyproject.toml`` the walk of ``smoke.py`` and the
conformance suite at four bits. ``--record`` writes what was found to ``docs/versions.json`` and the README's table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "versions.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- tools/dev.py versions --record -->\n", "<!-- end -->\n"
SHOWN = {"torch": ("torch",), "keras": ("tensorflow", "keras")}
SHOWN_OF_BOTH = ("numpy", "mct-quantizers")


def measure(framework: str) -> dict[str, Any]:
    """The suite's results with the installed versions; ends the program if anything fails."""
    package = f"trainable_quantizers_{framework}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        smoke = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "smoke.py"), framework]
        suite = [sys.executable, "-m", "trainable_quantizers_core.conformance", package, "--only", "4bit"]
        for command in (smoke, [*suite, "--everything", "--quiet", "--json", str(report)]):
            if code := subprocess.run(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}).returncode:
                sys.exit(code)
        found = json.loads(report.read_text())
    versions = {name: found["versions"][name] for name in (*SHOWN[framework], *SHOWN_OF_BOTH)}
    return {"python": found["python"], "versions": versions, "promises": found["trials"]}


def table(records: dict[str, Any]) -> str:
    """The records as Markdown."""
    lines = ["| environment | Python | versions | promises kept at 4 bits |", "|---|---|---|---|"]
    for environment, record in records.items():
        versions = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in record["versions"].items())
        lines.append(f"| {environment} | {record['python']} | {versions} | all {record['promises']:,} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, records: dict[str, Any]) -> str:
    """A page with the table of the records between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(records)}\n{END}{after}"


def main() -> None:
    """Measure here; ``tools/dev.py`` enters the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=["torch", "keras"])
    parser.add_argument("--record", action="store_true", help="write docs/versions.json and the table of the README")
    chosen = parser.parse_args()
    found = measure(chosen.framework)
    if chosen.record:
        records = {**json.loads(RECORDS.read_text()), os.environ["HATCH_ENV_ACTIVE"]: found}
        records = dict(sorted(records.items()))
        RECORDS.write_text(json.dumps(records, indent=1) + "\n")
        README.write_text(with_table(README.read_text(), records))


if __name__ == "__main__":
    main()
