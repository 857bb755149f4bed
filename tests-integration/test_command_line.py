"""The program on saved models of both frameworks."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tt
from torch import nn

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
    return folder


def run(folder, *arguments):
    command = [sys.executable, "-m", "trainable_quantizers_core.command_line", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160"}
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
