"""The program on saved models of both frameworks."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tt
from torch import nn
from trainable_quantizers_core.command_line import main

import tensorflow as tf  # isort: skip  after torch
import trainable_quantizers_keras as tk  # isort: skip

keras = tf.keras
RECIPE = tt.Recipe.preset("mixed_w4a8")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    np.savez(folder / "data.npz", x)
    model = tt.prepare(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), RECIPE, torch.from_numpy(x), verbose=False
    )
    model.eval()
    deployed = tt.convert(model)
    torch.save(model, folder / "trained.pt")
    torch.save(deployed, folder / "deployed.pt")
    tt.export(deployed, folder / "deployed.pt2", torch.from_numpy(x))
    with torch.no_grad():
        list(deployed.parameters())[-1].add_(1.0)
    torch.save(deployed, folder / "off.pt")
    twin = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    trained = tk.prepare(twin, RECIPE, x, verbose=False)
    trained.save(folder / "trained.keras")
    tk.convert(trained).save(folder / "deployed.keras")
    twin.layers[-1].bias.assign_add([1.0, 1.0])
    tk.convert(tk.prepare(twin, RECIPE, x, verbose=False)).save(folder / "off.keras")
    torch.save(nn.Linear(5, 2), folder / "other.pt")
    torch.save(model.state_dict(), folder / "state.pt")
    torch.save(model, folder / "UPPER.PT")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "own.py").write_text("from torch import nn\nclass Own(nn.Linear): pass\n")
    script = "import torch, own; torch.save(own.Own(4, 2), '../own.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=folder / "elsewhere", check=True)
    for name in ("damaged.pt", "damaged.pt2", "damaged.keras", "damaged.npz"):
        (folder / name).write_bytes(b"PK\x03\x04 damaged")
    for name in ("empty.pt", "empty.npz"):
        (folder / name).touch()
    np.savez(folder / "none.npz")
    np.savez(folder / "wide.npz", np.zeros((8, 5), "float32"))
    np.save(folder / "array.npy", x)
    return folder


@pytest.fixture
def inside(models, monkeypatch):
    """The folder of the models, which is the working directory."""
    monkeypatch.chdir(models)
    monkeypatch.setenv("COLUMNS", "160")
    return models


RUNS = {
    "torch": (["trained.pt", "deployed.pt", "--trust"], 0, "All 16 output values are identical."),
    "torch, a program": (["trained.pt", "deployed.pt2", "--trust"], 0, "All 16 output values are identical."),
    "torch, a difference": (["trained.pt", "off.pt", "--trust"], 1, "output values differ"),
    "torch, a difference that passes": (["trained.pt", "off.pt", "--trust", "--tolerance", "5"], 0, "values differ"),
    "keras": (["trained.keras", "deployed.keras"], 0, "All 16 output values are identical."),
    "not trusted": (["trained.pt", "deployed.pt"], 2, "add --trust"),
    "two frameworks": (["trained.keras", "deployed.pt", "--trust"], 2, "of the framework of trained.keras"),
}


@pytest.mark.parametrize("name", RUNS)
def test_verify(name, inside, capsys):
    arguments, code, text = RUNS[name]
    assert main(["verify", *arguments, "--data", "data.npz"]) == code
    printed = capsys.readouterr()
    assert text in printed.out + printed.err


@pytest.mark.parametrize("model", ["trained.pt", "trained.keras"])
def test_report(model, inside, capsys):
    assert main(["report", model, "--data", "data.npz", "--trust"]) == 0
    assert "Lowest SQNR" in capsys.readouterr().out
    assert main(["report", model, "--html", f"{model}.html", "--trust"]) == 0
    assert "<html" in (inside / f"{model}.html").read_text()


def test_conformance(capsys):
    only = ["--only", "LSQ-activation-uniform-4bit", "--mode", "torch", "--quiet"]
    assert main(["conformance", "trainable_quantizers_torch", *only]) == 0
    assert "promises kept" in capsys.readouterr().out


PROGRAMS = {  # arguments, variables, how it ends, and what it prints
    "a difference": (["verify", "trained.keras", "off.keras", "--data", "data.npz"], {}, 1, "output values differ"),
    "classes on the path": (
        ["report", "own.pt", "--trust"],
        {"PYTHONPATH": f"elsewhere{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        2,
        "one that holds trainable quantizers, got 'Own'",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "a difference")) for name in PROGRAMS]
)
def test_a_program_of_its_own_ends_with_the_code(name, models):
    arguments, variables, code, text = PROGRAMS[name]
    command = [sys.executable, "-m", "trainable_quantizers_core.command_line", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160", **variables}
    done = subprocess.run(command, capture_output=True, text=True, cwd=models, env=environment)
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr


VERIFIED = ["trained.pt", "deployed.pt", "--trust", "--data"]
MISTAKES = {
    **{
        f"data in {name}": (["verify", *VERIFIED, name], "must be an .npz file of plain arrays")
        for name in ("damaged.npz", "empty.npz", "none.npz", "array.npy")
    },
    "data of another shape": (["verify", *VERIFIED, "wide.npz"], "batches that the model takes"),
    **{
        f"a model in {name}": (["report", name, "--trust"], "one that PyTorch loads")
        for name in ("damaged.pt", "damaged.pt2", "empty.pt")
    },
    "a damaged Keras model": (["report", "damaged.keras"], "one that Keras loads"),
    "a class of somewhere else": (["report", "own.pt", "--trust"], "classes of your own must be on PYTHONPATH"),
    "a state dictionary": (["report", "state.pt", "--trust"], "torch.save(model, path)"),
    "a program is not trained": (["verify", "deployed.pt2", *VERIFIED[1:], "data.npz"], "pass what prepare returned"),
    "no report of a program": (["report", "deployed.pt2"], "one that holds trainable quantizers"),
    "another model": (["verify", "trained.pt", "other.pt", *VERIFIED[2:], "data.npz"], "takes the batches"),
    "no file": (["report", "none.pt", "--trust"], "No such file"),
    "no folder": (["report", "trained.pt", "--trust", "--html", "no/where.html"], "No such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_ends_with_2(name, inside, capsys):
    """Never with 1, which says that two models differ."""
    arguments, text = MISTAKES[name]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("trainable-quantizers: ")]
    assert len(lines) == 1
    assert printed.err.endswith(f"{lines[0]}\n")
    assert text in lines[0]
    assert not printed.out


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf", "much"])
def test_a_tolerance_that_means_nothing_is_refused(tolerance, models):
    with pytest.raises(SystemExit) as ended:
        main(["verify", *VERIFIED, "data.npz", "--tolerance", tolerance])
    assert ended.value.code == 2


def test_endings_are_read_in_any_case(inside, capsys):
    assert main(["report", "UPPER.PT", "--trust"]) == 0
    assert "Lowest SQNR" in capsys.readouterr().out
