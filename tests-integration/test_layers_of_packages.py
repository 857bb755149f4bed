"""Imports point one way: framework package -> core, and between folders and files of a package without a circle; no
file takes a private name of another; the map of CONTRIBUTING.md names every file."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parent.parent / "packages"
FOREIGN = {
    "core": {"torch", "tensorflow", "keras", "trainable_quantizers_torch", "trainable_quantizers_keras"},
    "torch": {"tensorflow", "keras", "trainable_quantizers_keras"},
    "keras": {"torch", "trainable_quantizers_torch"},
}
MAP = PACKAGES.parent / "CONTRIBUTING.md"
ROOMS = {"quantizer", "layers", "graph", "calibration", "deploy", "training", "kernels"}


def modules(package):
    """The modules of a package, by name, parsed."""
    source = PACKAGES / package / "src"
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imports(package):
    """(module that imports, module that it imports) of all files of a package."""
    for module, tree in modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield module, node.module
            elif isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)


@pytest.mark.parametrize("package", FOREIGN)
def test_no_package_imports_what_is_beside_or_above_it(package):
    found = {(module, name) for module, name in imports(package) if name.partition(".")[0] in FOREIGN[package]}
    assert not found


def room(module):
    """The folder of a module, or the module itself where it stands in none."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", FOREIGN)
def test_folders_import_each_other_without_a_circle(package):
    name = f"trainable_quantizers_{package}"
    graph: dict[str, set[str]] = {}
    for module, other in imports(package):
        if module != name and other.startswith(f"{name}.") and room(module) != room(other):
            graph.setdefault(room(module), set()).add(room(other))
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert len(order) > 5


@pytest.mark.parametrize("package", FOREIGN)
def test_files_import_each_other_without_a_circle(package):
    parsed = dict(modules(package))
    graph: dict[str, set[str]] = {name: set() for name in parsed}
    for module, tree in parsed.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in parsed:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[module] |= named & parsed.keys() or {node.module}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert len(order) == len(parsed)


@pytest.mark.parametrize("package", FOREIGN)
def test_no_file_takes_a_private_name_of_another(package):
    taken = [
        f"{module}: {alias.name}"
        for module, tree in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trainable_quantizers")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not taken


def test_both_framework_packages_have_the_same_folders():
    for framework in ("torch", "keras"):
        source = PACKAGES / framework / "src" / f"trainable_quantizers_{framework}"
        assert {path.name for path in source.iterdir() if (path / "__init__.py").exists()} == ROOMS


TABLES = re.findall(
    r"^\| (?:beside the folders|([\w/]+)/) \| core.*\n\|.*\n((?:\|.*\n)+)", MAP.read_text(), re.MULTILINE
)


def files_on_the_map(package, rows):
    """The files that a table of the map gives to a package: those with words in its column, or marked as its own."""
    for row in rows.splitlines():
        names, of_core, *of_frameworks = (cell.strip() for cell in row.strip("|").split("|"))
        if of_core if package == "core" else any(of_frameworks):
            yield from (name for name, own in re.findall(r"`(\w+)`(?: \((\w+)\))?", names) if own in ("", package))


@pytest.mark.parametrize("package", FOREIGN)
def test_the_map_names_every_file_of_a_package_and_no_other(package):
    source = PACKAGES / package / "src" / f"trainable_quantizers_{package}"
    named = {f"{folder}/{name}".strip("/") for folder, rows in TABLES for name in files_on_the_map(package, rows)}
    if package != "core":
        named |= {"report", "conformance"}  # which stand in the heads of their tables
    files = {path.relative_to(source).with_suffix("") for path in source.rglob("*.py")}
    assert named == {str(file) for file in files if file.name not in ("__init__", "_version")}
