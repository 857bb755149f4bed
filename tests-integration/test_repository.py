"""What the repository says of itself is true: snippets run, links lead somewhere, workflows call what exists."""

import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "packages/*/*.md") for path in ROOT.glob(pattern))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(("framework", "file"), [("PyTorch", "digits.pt2"), ("Keras", "digits.keras")])
def test_the_programs_of_the_readme_run(framework, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().partition(f"## {framework}\n")[2]
    program = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    exec(program, {})
    (said,) = re.findall(r"print\(verify\(.*\)\)  # (.*)", program)
    assert said in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_the_readme_shows_the_versions_that_were_tested():
    import versions

    page, records = (ROOT / "README.md").read_text(), json.loads(versions.RECORDS.read_text())
    assert versions.with_table(page, records) == page


def test_records_of_versions_are_those_of_the_environments():
    import dev
    import versions

    environments = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["envs"]
    records = json.loads(versions.RECORDS.read_text())
    assert records.keys() <= set(dev.VERSIONS) <= environments.keys()
    for name, record in records.items():
        pinned = dict(each.split("==") for each in environments[name]["dependencies"] if "==" in each)
        assert pinned.items() <= record["versions"].items()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_api_pages_show_every_listed_name_once(framework):
    core, listed = (
        set(importlib.import_module(f"trainable_quantizers_{each}").__all__) for each in ("core", framework)
    )
    page = (ROOT / f"docs/api-{framework}.md").read_text()
    members = re.findall(r"^ +- (\S+)$", page, re.MULTILINE)
    functions = re.findall(r"^::: trainable_quantizers_\w+\.\w+\.(\w+)$", page, re.MULTILINE)  # named like their files
    assert sorted(members + functions) == sorted(listed - core)


def test_examples_of_docstrings_are_sections_that_the_site_knows():
    named_otherwise = r"^ *(Example|Doctest|Usage):$"
    sources = (ROOT / "packages").glob("*/src/**/*.py")
    assert [path for path in sources if re.search(named_otherwise, path.read_text(), re.MULTILINE)] == []


def test_the_site_shows_every_page():
    pages = re.findall(r"- ([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_pictures_show_the_quantizers_of_the_sources():
    import plots

    assert {path.stem for path in plots.FOLDER.iterdir()} == plots.quantizers().keys()
    for name, (quantizer, _) in plots.quantizers().items():
        picture = (plots.FOLDER / f"{name}.svg").read_text()
        assert plots.digest(plots.curves(quantizer)) in picture, f"{name} is stale: tools/dev.py docs plots"


def test_the_recipes_page_runs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/recipes.md").read_text()
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    Path("npu.toml").write_text(recipe)
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {})
    assert "skipped by rule 3 (name 'head')" in capsys.readouterr().out
    assert Path("npu.json").exists()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_conformance_page_counts_what_the_suite_checks(framework):
    from trainable_quantizers_core.conformance import iterate_trials, load_adapters

    adapters = [each for each in load_adapters(f"trainable_quantizers_{framework}") if " on " not in each.name]
    trials = list(iterate_trials(adapters, everything=True))
    counts = Counter(trial.adapter.name for trial in trials)
    cases = {(trial.adapter.name, trial.case) for trial in trials}
    row = f"| {', '.join(f'{name} {count:,}' for name, count in counts.items())} | {len(cases)} | 0 |"
    page = (ROOT / "docs/conformance.md").read_text()
    assert row in page
    assert row.replace("keras3", "keras2") in page


PAGES_THAT_RUN = {  # and what they write
    "quantizers": set(),
    "migration-torchao": set(),
    "migration-tfmot": {"model.tflite"},
    "report": {"report.html"},
    "portability": {"learned.safetensors"},
    "prepare": set(),
    "exact": set(),
    "integer": {"network.tflite", "network.safetensors", "network.c"},
    "training": set(),
    "without-labels": set(),
    "few-bits": set(),
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


COMMANDS = "".join(path.read_text() for path in (*PAGES, *WORKFLOWS))


def test_commands_of_pages_and_workflows_exist():
    import dev
    import release

    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["envs"]
    tasks = set(re.findall(r"tools/dev\.py (\w+)", COMMANDS))
    assert {"demo", "test", "lint", "docs", "release", "versions", "bench"} < tasks
    assert [task for task in tasks if not callable(getattr(dev, task, None))] == []
    commands = set(re.findall(r"tools/dev\.py release (\w+)|`release (\w+) ", COMMANDS))
    assert [name for name in commands if not callable(getattr(release, "".join(name), None))] == []
    for environment, script in re.findall(r"hatch run ([\w-]+):(\w+)", COMMANDS):
        assert script in ("pytest", "python", *workspace[environment]["scripts"])
    for program in re.findall(r"\btools/[\w/]+\.py", COMMANDS):
        assert (ROOT / program).exists(), program
    for package, extra in re.findall(r"(?:trainable-quantizers-|packages/)(\w+)\[(\w+)\]", COMMANDS):
        project = tomllib.loads((ROOT / f"packages/{package}/pyproject.toml").read_text())["project"]
        assert extra in project["optional-dependencies"], (package, extra)


def test_commands_of_tests_name_files_that_exist():
    for path in re.findall(r"packages/[\w*]+/tests/\w+\.py", COMMANDS):
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_parse_and_call_what_exists(workflow):
    import dev

    content = yaml.safe_load(workflow.read_text())
    assert content["jobs"]
    for job in content["jobs"].values():
        assert "runs-on" in job
        needs = job.get("needs", [])
        assert ({needs} if isinstance(needs, str) else {*needs}) <= {*content["jobs"]}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            for tool, task in re.findall(r"python (tools/\w+\.py) (\S+)", step.get("run", "")):
                assert (ROOT / tool).exists()
                assert tool != "tools/dev.py" or hasattr(dev, task)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_hash_with_their_version_beside(workflow):
    uses = re.findall(r"uses: (.*)", workflow.read_text())
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_workflow_of_a_package_runs_all_its_versions_where_it_or_the_core_changed(framework):
    import dev

    content = yaml.safe_load((ROOT / f".github/workflows/{framework}.yml").read_text())
    (job,) = content["jobs"].values()
    environments = {each["environment"] for each in job["strategy"]["matrix"]["include"]}
    assert environments == {name for name in dev.VERSIONS if name.startswith(framework)}
    for event in content[True].values():  # YAML takes the key "on" for true
        for path in event["paths"]:
            assert list(ROOT.glob(path)), path
        assert {"packages/core/**", f"packages/{framework}/**"} <= set(event["paths"])


def test_both_framework_packages_have_the_extras_that_both_need():
    projects = {
        name: tomllib.loads((ROOT / f"packages/{name}/pyproject.toml").read_text())["project"]
        for name in ("core", "torch", "keras")
    }
    extras = {name: set(project["optional-dependencies"]) for name, project in projects.items()}
    assert extras["core"] < extras["keras"] == extras["torch"] - {"fast", "onnx"}  # which PyTorch alone has
    assert projects["core"]["classifiers"] == projects["torch"]["classifiers"] == projects["keras"]["classifiers"]


@pytest.mark.parametrize(
    "file", ["CITATION.cff", ".github/dependabot.yml", *(ROOT / ".github/ISSUE_TEMPLATE").iterdir()]
)
def test_files_for_the_host_parse(file):
    assert yaml.safe_load((ROOT / file).read_text())


def test_the_citation_holds_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert all(citation[key] for key in ("authors", "message", "title"))


def test_programs_and_networks_of_tests_have_names_of_their_own():
    """Processes that run tests import them from many folders."""
    folders = ("tools/**", "docs/examples", "packages/*/tests", "tests-integration")
    files = [path for folder in folders for path in ROOT.glob(f"{folder}/*.py") if path.name != "conftest.py"]
    names = Counter(path.name for path in files if not path.name.startswith("test_"))
    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_zoo_lists_forty_networks_of_each_framework_and_imports_their_packages_when_it_builds_them(
    framework, monkeypatch
):
    for package in ("torchvision", "timm", "transformers", "keras_hub"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.syspath_prepend(ROOT / "tools/zoo")
    networks = dict(importlib.import_module(f"{framework}_zoo").networks())
    assert len(networks) >= 40
    assert all(callable(build) for build, _ in networks.values())


def test_every_mutant_breaks_a_line_that_is_there_once():
    import mutants

    assert f"breaks {len(mutants.MUTANTS)} single lines" in (ROOT / "docs/conformance.md").read_text().replace(
        "\n", " "
    )
    for _, file, line, broken in mutants.MUTANTS:
        assert (ROOT / file).read_text().count(line) == 1, line
        assert line != broken


@pytest.mark.parametrize("cases", ["1000", pytest.param("10000", marks=pytest.mark.long)])
def test_no_damaged_data_escape_the_readers(cases, monkeypatch):
    import fuzz

    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--cases", cases])
    assert fuzz.main() == 0


def test_written_your_own_shows_the_example_that_is_run():
    (snippet, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/write-your-own.md").read_text(), re.DOTALL)
    example = (ROOT / "docs/examples/own_quantizer_torch.py").read_text()
    for line in snippet.splitlines():
        assert line in example.splitlines()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_quantizer_and_its_test_take_under_40_lines(framework):
    assert len((ROOT / f"docs/examples/own_quantizer_{framework}.py").read_text().splitlines()) < 40
