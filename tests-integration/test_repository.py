"""What the repository says of itself is true: snippets run, links lead somewhere, workflows call what exists."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "packages/*/*.md") for path in ROOT.glob(pattern))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_readme_snippet_runs():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    assert type(names["deployed"][0]).__name__ == "PytorchQuantizationWrapper"


def test_the_recipes_page_runs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/recipes.md").read_text()
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    Path("npu.toml").write_text(recipe)
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {})
    assert "skipped by rule 3 (name 'head')" in capsys.readouterr().out
    assert Path("npu.json").exists()


PAGES_THAT_RUN = {  # and what they write
    "report": {"report.html"},
    "portability": {"learned.safetensors"},
    "prepare": set(),
    "exact": set(),
    "integer": {"network.safetensors", "network.c"},
    "training": set(),
    "export": {"model.onnx"},
    "migration-mct": set(),
    "tutorial-pytorch": {"npu.toml", "report.html", "digits.onnx", "digits.pt2", "digits.c"},
    "tutorial-keras": {"npu.toml", "report.html", "digits.keras", "digits", "digits.tflite", "digits.c"},
}


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_the_snippets_of_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    exec("\n".join(snippets), {})
    assert {path.name for path in tmp_path.iterdir()} == PAGES_THAT_RUN[page]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_parse_and_call_what_exists(workflow):
    import dev

    content = yaml.safe_load(workflow.read_text())
    assert content["jobs"]
    for job in content["jobs"].values():
        assert "runs-on" in job
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            found = re.match(r"python (tools/\w+\.py) (\w+)", step.get("run", ""))
            if found:
                assert (ROOT / found[1]).exists()
                assert hasattr(dev, found[2]) or found[2] == "check"


@pytest.mark.parametrize("package", ["core", "torch", "keras"])
def test_the_next_release_of_each_package_can_be_tagged(package):
    import release

    assert release.check(f"{package}-v{release.version_of(package)}") == package


@pytest.mark.parametrize("tag", ["v0.1.0", "jax-v0.1.0", "core-v9.9.9", "core-v1"])
def test_wrong_tags_are_refused(tag):
    done = subprocess.run([sys.executable, ROOT / "tools/release.py", "check", tag], capture_output=True, text=True)
    assert done.returncode == 1
    assert tag in done.stderr


@pytest.mark.parametrize(
    ("version", "entry", "fits"),
    [
        ("0.1.1", "0.1.1", True),
        ("0.1.1", "0.1.10", False),
        ("0.2.0rc1", "0.2.0rc1", True),
        ("0.2.0", "0.2.0rc1", False),
    ],
)
def test_a_release_needs_a_changelog_entry_of_its_very_version(version, entry, fits, tmp_path, monkeypatch):
    import release

    source = tmp_path / "core" / "src" / "trainable_quantizers_core"
    source.mkdir(parents=True)
    (source / "_version.py").write_text(f'__version__ = "{version}"\n')
    (tmp_path / "core" / "CHANGELOG.md").write_text(f"# Changes\n\n## {entry} (2026-11-25)\n")
    monkeypatch.setattr(release, "PACKAGES", tmp_path)
    if fits:
        assert release.check(f"core-v{version}") == "core"
    else:
        with pytest.raises(SystemExit, match="no entry"):
            release.check(f"core-v{version}")


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_zoo_lists_forty_networks_of_each_framework(framework, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/zoo")
    networks = dict(importlib.import_module(f"{framework}_zoo").networks())
    assert len(networks) >= 40
    assert all(callable(build) for build, _ in networks.values())


def test_every_mutant_breaks_a_line_that_is_there_once():
    import mutants

    assert len(mutants.MUTANTS) > 20
    for _, file, line, broken in mutants.MUTANTS:
        assert (ROOT / file).read_text().count(line) == 1, line
        assert line != broken


def test_no_damaged_data_escape_the_readers():
    command = [sys.executable, ROOT / "tools/fuzz.py", "--cases", "10000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_written_your_own_shows_the_example_that_is_run():
    (snippet, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/write-your-own.md").read_text(), re.DOTALL)
    example = (ROOT / "docs/examples/own_quantizer_torch.py").read_text()
    for line in snippet.splitlines():
        assert line in example.splitlines()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_quantizer_and_its_test_take_under_40_lines(framework):
    assert len((ROOT / f"docs/examples/own_quantizer_{framework}.py").read_text().splitlines()) < 40
