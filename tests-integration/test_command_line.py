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


def run(folder, *arguments, **variables):
    command = [sys.executable, "-m", "trainable_quantizers_core.command_line", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160", **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


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
def test_verify(name, models):
    arguments, code, text = RUNS[name]
    done = run(models, "verify", *arguments, "--data", "data.npz")
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr


@pytest.mark.parametrize("model", ["trained.pt", "trained.keras"])
def test_report(model, models):
    done = run(models, "report", model, "--data", "data.npz", "--trust")
    assert done.returncode == 0, done.stderr
    assert "Lowest SQNR" in done.stdout
    done = run(models, "report", model, "--html", f"{model}.html", "--trust")
    assert done.returncode == 0, done.stderr
    assert "<html" in (models / f"{model}.html").read_text()


def test_conformance(models):
    done = run(models, "conformance", "trainable_quantizers_torch", "--only", "LSQ", "--mode", "torch", "--quiet")
    assert done.returncode == 0, done.stderr[-2000:]


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
def test_a_mistake_is_one_line_and_ends_with_2(name, models, monkeypatch, capsys):
    """Never with 1, which says that two models differ."""
    arguments, text = MISTAKES[name]
    monkeypatch.chdir(models)
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


def test_endings_are_read_in_any_case(models, monkeypatch, capsys):
    monkeypatch.chdir(models)
    assert main(["report", "UPPER.PT", "--trust"]) == 0
    assert "Lowest SQNR" in capsys.readouterr().out


def test_classes_on_the_path_are_found(models):
    done = run(
        models, "report", "own.pt", "--trust", PYTHONPATH=f"elsewhere{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    assert done.returncode == 2
    assert "one that holds trainable quantizers, got 'Own'" in done.stderr
