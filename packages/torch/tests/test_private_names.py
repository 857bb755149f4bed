"""Private names of PyTorch that the package uses, where no public one exists: a release without one fails here."""

import importlib
import re
from pathlib import Path

import trainable_quantizers_torch

SOURCE = "\n".join(path.read_text() for path in Path(trainable_quantizers_torch.__file__).parent.rglob("*.py"))


def private_names():
    for name in re.findall(r"\btorch\.[\w.]*\b", SOURCE):
        if any(part.startswith("_") and not part.startswith("__") for part in name.split(".")):
            yield name
    for module, names in re.findall(r"^from (torch[\w.]*) import (.+)$", SOURCE, re.MULTILINE):
        yield from (f"{module}.{name}" for name in re.findall(r"\w+", names) if name.startswith("_") or "._" in module)


def exists(name):
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
        except ModuleNotFoundError:
            return False
    return True


def test_pytorch_has_every_private_name_that_the_package_uses():
    names = set(private_names())
    assert {"torch._C.DisableTorchFunctionSubclass", "torch.overrides._get_current_function_mode_stack"} <= names
    assert [name for name in sorted(names) if not exists(name)] == []
