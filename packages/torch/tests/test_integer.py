"""Converted networks as integer programs: numpy, and a C compiler, compute what PyTorch does, bit for bit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS
from torch_trained import IMAGES, POWERS, trained
from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled


def prepared(network: nn.Module, x: Any, preset: str = "power_of_two_8bit") -> nn.Module:
    return tq.convert(tq.prepare(network.eval(), tq.Recipe.preset(preset), [x], fold_batch_norm=True, verbose=False))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_program_computes_what_the_network_does(bits, tmp_path):
    deployed = tq.convert(trained(bits))
    program = tq.to_integer(deployed, IMAGES)
    assert tq.verify(deployed, program, [IMAGES]).identical
    assert tq.verify(trained(bits), program, [IMAGES]).identical
    assert not program.float_operations and not program.notes
    assert program.rounding == {RoundingRule.HALF_EVEN}
    program.save(tmp_path / "program.safetensors")
    assert tq.verify(deployed, tq.Program.load(tmp_path / "program.safetensors"), [IMAGES]).identical


@pytest.mark.parametrize("bits", [8, 4])
def test_a_c_file_computes_what_the_network_does(bits, tmp_path):
    found = tq.export(tq.convert(trained(bits)), tmp_path / "model.c", IMAGES)
    assert found.identical and found.elements == 320
    assert "void model_run(const int8_t *input, int8_t *output)" in (tmp_path / "model.c").read_text()


METHODS = {"symmetric": ("symmetric", "symmetric"), "uniform": ("symmetric", "uniform"), "mixed": ("uniform", POWERS)}


@pytest.mark.parametrize("rescale", ["float32", "fixed_point"])
@pytest.mark.parametrize("methods", METHODS)
def test_where_steps_are_no_powers_of_two_a_program_rescales_and_hardly_a_value_differs(methods, rescale, tmp_path):
    deployed = tq.convert(trained(methods=METHODS[methods]))
    program = tq.to_integer(deployed, IMAGES, rescale=rescale)
    assert program.rescale == {rescale} and not program.float_operations
    found = tq.verify(deployed, program, [IMAGES])
    assert found.layers[0].differing == 0  # what reads the images
    assert sum(layer.differing for layer in found.layers) <= 0.01 * sum(layer.elements for layer in found.layers)
    assert found.differing <= 0.05 * found.elements
    (output,) = (program.values[index] for index in program.outputs.values())
    assert found.largest <= 1.001 * output.scale * 2.0**output.exponent  # the next level
    assert found.differing == 0 or f"rescaled ({rescale} in the integer program)" in str(found)
    program.save(tmp_path / "program.safetensors")
    loaded = tq.Program.load(tmp_path / "program.safetensors")
    assert loaded.rescale == {rescale} and np.array_equal(loaded.run(IMAGES), program.run(IMAGES))


def test_a_c_file_multiplies_in_fixed_point():
    deployed = tq.convert(trained(methods=METHODS["uniform"]))
    program = tq.to_integer(deployed, IMAGES, rescale="fixed_point")
    assert np.array_equal(compiled(program)(IMAGES), program.run(IMAGES))
    with pytest.raises(tq.QuantizerError, match="rescale must be 'fixed_point' where steps are no powers of two, got"):
        c_source(tq.to_integer(deployed, IMAGES))
    with pytest.raises(tq.QuantizerError, match="rescale must be one of float32, fixed_point, got 'float'; did you"):
        tq.to_integer(deployed, IMAGES, rescale="float")


def test_an_exported_c_file_computes_nearly_what_the_network_does(tmp_path):
    found = tq.export(tq.convert(trained(methods=METHODS["uniform"])), tmp_path / "model.c", IMAGES)
    assert found.differing <= 0.05 * found.elements


@pytest.mark.parametrize("rounding", ["half_up", "half_away"])
def test_a_network_trains_with_the_rule_for_ties_of_its_target(rounding):
    model = trained(rounding=rounding)
    with pytest.warns(UserWarning, match=f"convert: ties are rounded {rounding} in training, and half_even by"):
        deployed = tq.convert(model)
    program = tq.to_integer(deployed, IMAGES, rounding=rounding)
    assert program.rounding == {rounding}
    assert tq.verify(model, program, [IMAGES]).identical
    assert not tq.verify(model, tq.to_integer(deployed, IMAGES), [IMAGES]).identical
    assert tq.verify(model, tq.to_integer(deployed, IMAGES).with_rounding(rounding), [IMAGES]).identical
    with pytest.raises(tq.QuantizerError, match="rounding must be one of half_even, half_up, half_away, got 'up'"):
        tq.to_integer(deployed, IMAGES, rounding="up")
    with pytest.raises(tq.QuantizerError, match="rounding must be patterns of names of quantizers, got 'haed'; "):
        tq.to_integer(deployed, IMAGES, rounding={"haed": "half_up"})


def test_the_rule_of_the_framework_needs_no_mention():
    model = trained(rounding="half_even")
    assert tq.verify(model, tq.convert(model), [IMAGES]).identical


def test_images_next_to_ties_are_quantized_as_in_the_network():
    deployed = tq.convert(trained())
    program = tq.to_integer(deployed, IMAGES)
    (step,) = (each.attributes["step"] for each in program.steps if each.operation == "quantize")
    ties = (torch.floor(IMAGES / step) + 0.5) * step
    for images in (ties, *(torch.nextafter(ties, torch.tensor(side)) for side in (-torch.inf, torch.inf))):
        assert tq.verify(deployed, program, [images]).identical


def test_accumulators_have_the_names_of_layers_and_stay_below_their_worst():
    program = tq.to_integer(tq.convert(trained()), IMAGES)
    sums = program.accumulators(IMAGES)
    assert [each.name for each in sums] == ["stem", "depthwise", "wide", "up", "mean", "twice", "twice", "head"]
    assert all(1 < each.seen <= each.worst <= 24 for each in sums)


def test_verify_says_that_a_program_takes_inputs_of_one_size():
    deployed = tq.convert(trained())
    program = tq.to_integer(deployed, IMAGES)
    with pytest.raises(tq.QuantizerError, match=r"got 'Program'; it says: .*input must be of shape \(samples, "):
        tq.verify(deployed, program, [IMAGES[:, :, :9, :9]])


REFUSED = {
    "cells": "aten.lstm_cell of 'first'",
    "recurrent": "aten.lstm of 'lstm'",
    "reads attributes": "torch.export says: GuardOnDataDependentSymNode",
    "branching": "torch.export says: GuardOnDataDependentSymNode",
}
IN_FLOAT = {
    "attention": {"softmax", "normalize", "multiply", "add", "transpose"},
    "encoder": {"softmax", "normalize", "multiply", "add"},
    "asking": {"normalize", "multiply", "add"},
    "language model": {"softmax", "where", "mean", "rsqrt", "multiply", "add", "logical_not", "every", "equal"},
    "vision transformer": {"softmax", "normalize", "multiply", "add", "where", "every", "logical_not", "equal"},
}
OFF_THE_GRID = {"read directly", "own layers"}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_many_kinds_have_programs(name):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    deployed = prepared(build(), inputs)
    if name in REFUSED:
        with pytest.raises(tq.QuantizerError, match=REFUSED[name]):
            tq.to_integer(deployed, inputs)
        return
    program = tq.to_integer(deployed, inputs)
    kinds = {each.rpartition("(")[2].rstrip(")") for each in program.float_operations}
    assert kinds <= IN_FLOAT.get(name, set())
    assert bool(kinds) == (name in IN_FLOAT)
    assert bool(program.notes) == (name in OFF_THE_GRID)
    found = tq.verify(deployed, program, [inputs])
    assert found.differing <= (0.1 * found.elements if name in OFF_THE_GRID else 0)


FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], Any]]] = {
    "mean of windows": ((4, 7, 7), lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "mean of windows, padding not counted": ((4, 7, 7), lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "mean of windows, the last one cut": ((4, 7, 7), lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "mean of windows of a line": ((4, 7), lambda x: F.avg_pool1d(x, 3, 2)),
    "maximum of windows, the last one cut": ((4, 7, 7), lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    "maximum of windows that are spread": ((4, 7, 7), lambda x: F.max_pool2d(x, (2, 3), 1, (1, 0), dilation=2)),
    "adaptive mean": ((4, 8, 6), lambda x: F.adaptive_avg_pool2d(x, (4, 2))),
    "mean of everything": ((4, 3, 3), lambda x: x.mean((1, 2, 3))),
    "sum": ((4, 3, 3), lambda x: x.sum(1, keepdim=True)),
    "maximum": ((4, 3, 3), lambda x: x.amax((2, 3))),
    "nearest neighbours": ((4, 3, 5), lambda x: F.interpolate(x, scale_factor=2)),
    "nearest neighbours of any size": ((4, 3, 5), lambda x: F.interpolate(x, size=(5, 7), mode="nearest")),
    "in between": ((4, 3, 5), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "in between, with corners": ((4, 3, 3), lambda x: F.interpolate(x, size=5, mode="bilinear", align_corners=True)),
    "zeros around": ((4, 3, 5), lambda x: F.pad(x, (1, 2, 0, 1))),
    "values around": ((4, 3, 5), lambda x: F.pad(x, (1, 0), value=0.5)),
    "less around": ((4, 3, 5), lambda x: F.pad(x, (-1, 1, 0, -1))),
    "backwards": ((4, 3, 5), lambda x: x.flip(1, 3)),
    "rolled": ((4, 3, 5), lambda x: x.roll((1, -2), (2, 3))),
    "shuffled channels": ((4, 3, 5), lambda x: F.channel_shuffle(x, 2)),
    "shuffled pixels": ((4, 3, 5), lambda x: F.pixel_shuffle(x, 2)),
    "in parts": ((4, 3, 5), lambda x: torch.cat(x.chunk(2, 1)[::-1], 2)),
    "every second": ((4, 3, 5), lambda x: x[:, ::2, 1:, -1]),
    "at places": ((4, 3, 5), lambda x: x[:, [0, 3, 3]]),
    "stacked": ((4, 3, 5), lambda x: torch.stack(x.unbind(1)[:2], -1)),
    "expanded": ((4, 1, 5), lambda x: x.expand(-1, -1, 3, -1)),
    "hard functions": ((4, 3, 3), lambda x: F.hardswish(x) + F.hardsigmoid(x)),
    "smooth functions": ((4, 3, 3), lambda x: torch.cat([F.gelu(x), F.elu(x), F.softplus(x), F.mish(x), x.tanh()], 1)),
    "ReLU6": ((4, 3, 3), lambda x: F.relu6(x * 8)),
    "clamped": ((4, 3, 3), lambda x: x.clamp(0.25, 1.0)),
    "scaled and moved": ((4, 3, 3), lambda x: x / 8 - 0.5),
    "times a number": ((4, 3, 3), lambda x: x * 0.3),
    "the larger of two": ((4, 3, 3), lambda x: torch.maximum(x, x.flip(3))),
    "products": ((4, 3, 3), lambda x: x * x.mean((2, 3), keepdim=True)),
    "products of matrices": ((4, 3, 3), lambda x: x @ x.transpose(2, 3)),
}


class Through(nn.Module):
    """A function between a convolution and what follows it."""

    def __init__(self, channels: int, rank: int, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.first = (nn.Conv1d if rank == 2 else nn.Conv2d)(channels, channels, 1)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.first(x))


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "a strided convolution in groups": ((4, 7, 6), lambda: nn.Conv2d(4, 6, 3, (2, 1), (1, 0), 2, groups=2)),
    "a convolution that keeps sizes": ((4, 7, 6), lambda: nn.Conv2d(4, 6, (2, 3), padding="same")),
    "a convolution of a line": ((4, 9), lambda: nn.Conv1d(4, 6, 3, 2, 1)),
    "a convolution of a volume": ((2, 4, 5, 3), lambda: nn.Conv3d(2, 3, (3, 2, 1), padding=1)),
    "a transposed convolution": ((4, 5, 4), lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1)),
    "a transposed convolution in groups": ((4, 5, 4), lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2, dilation=2)),
    "a transposed convolution that cuts": ((4, 5, 4), lambda: nn.ConvTranspose2d(4, 6, 1, 2, 1)),
    "a transposed convolution of a line": ((4, 5), lambda: nn.ConvTranspose1d(4, 3, 4, 2, 1)),
    "a linear layer of sequences": ((5, 4), lambda: nn.Linear(4, 3, bias=False)),
    "reflected around": ((4, 5, 4), lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3))),
    "repeated around": ((4, 5, 4), lambda: nn.Sequential(nn.ReplicationPad2d((1, 0, 2, 1)), nn.Conv2d(4, 2, 3))),
    "a convolution that wraps around": ((4, 5, 4), lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *LAYERS])
def test_operations_become_integers(name):
    torch.manual_seed(0)
    shape, given = (FUNCTIONS | LAYERS)[name]
    network = Through(shape[0], len(shape), given) if name in FUNCTIONS else nn.Sequential(given())
    x = torch.randn(3, *shape) * 2
    deployed = prepared(network, x)
    program = tq.to_integer(deployed, x)
    assert program.float_operations == []
    found = tq.verify(deployed, program, [x])
    assert found.identical, str(found)
    assert np.array_equal(compiled(program)(x.numpy()), program.run(x.numpy()))


class Anchored(nn.Module):
    """Gives its input and a constant as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.anchor = nn.Linear(4, 2), nn.Parameter(torch.ones(1, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"given": x, "found": self.layer(x), "anchor": self.anchor}


def test_inputs_and_constants_among_the_results_are_given_back(tmp_path):
    x = torch.randn(1, 4)
    deployed = prepared(Anchored(), x)
    with pytest.raises(tq.QuantizerError, match=r"program must be of integers alone, got .*'given', 'anchor'"):
        tq.export(deployed, tmp_path / "model.c", x)
    found = tq.to_integer(deployed, x).run(x)
    assert list(found) == ["given", "found", "anchor"]
    assert np.array_equal(found["given"], x) and np.array_equal(found["anchor"], np.ones((1, 3)))
    assert np.array_equal(found["found"], deployed(x)["found"].detach())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "model", "model must be a converted model, got 'model'"),
        (trained, r"model must be converted, got 'Residual'; pass convert\(model\)"),
    ],
)
def test_models_without_a_program_are_refused(model, message):
    with pytest.raises(tq.QuantizerError, match=message):
        tq.to_integer(model(), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: x + x.int(), "a cast to torch.int32"),
        (lambda x: x + x.half(), "a cast to torch.float16"),
        (lambda x: torch.div(x, 3.0, rounding_mode="floor"), "aten.div with alpha or rounding_mode"),
        (lambda x: torch.add(x, x, alpha=2), "aten.add with alpha or rounding_mode"),
        (lambda x: x.sort(1).values, "aten.sort"),
    ],
)
def test_operations_that_change_values_otherwise_are_refused(function, found):
    x = torch.randn(2, 4, 3, 3)
    deployed = prepared(Through(4, 3, function), x)
    with pytest.raises(tq.QuantizerError, match=f"operations that integer programs know, got [\"']{found}"):
        tq.to_integer(deployed, x)


def test_a_c_file_of_floats_is_refused_and_nothing_is_written(tmp_path):
    x = torch.randn(2, 4)
    deployed = prepared(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), x)
    with pytest.raises(tq.QuantizerError, match=r"program must be of integers alone, got \['1 \(softmax\)'\]"):
        tq.export(deployed, tmp_path / "model.c", x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bias", "cause"),
    [
        ("accumulator", r"no layer that both models have differs. Possible causes: Ties are rounded half_even.$"),
        ("float", r"Possible causes: stem: 16 of 16 biases were off the accumulator grid and are rounded. depthwise: "),
    ],
)
@pytest.mark.parametrize("deploy", [lambda model: model, tq.convert])
def test_verify_names_what_leaves_room_for_other_outputs(bias, cause, deploy):
    model = deploy(trained(bias=bias))
    found = tq.verify(model, lambda x: model(x) + 2.0**-4, [IMAGES])
    assert re.search(cause, str(found))


@pytest.mark.parametrize("deploy", [lambda model: model, tq.convert])
def test_verify_names_the_first_quantizer_where_a_program_differs(deploy):
    model = trained()
    program = tq.to_integer(tq.convert(model), IMAGES[:1])
    same = tq.verify(deploy(model), program, [IMAGES])
    names = ["stem.x", "relu", "relu_1", "wide", "relu_2", "relu_3", "mean", "relu_4", "relu_5", "head"]
    assert same.identical and [layer.name for layer in same.layers] == names
    found = tq.verify(deploy(model), program.with_rounding("half_away"), [IMAGES])
    assert found.first_difference.name == "relu" and found.causes == ("Ties are rounded half_away.",)
    assert re.search(r"it begins in relu, where \d+ of 73728 differ, .* Possible causes: Ties are", str(found))


def test_verify_names_the_rule_for_ties_that_was_trained():
    model = trained(rounding="half_away")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody called convert
        found = tq.verify(model, lambda x: model(x) + 1, [IMAGES])
    assert found.causes == ("Ties are rounded half_away.",)


class Sorted(nn.Module):
    """What no program knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort().values


def test_verify_names_operations_in_float_and_nothing_of_networks_without_a_program():
    x = torch.randn(2, 4)
    deployed = prepared(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(-1)), x)
    found = tq.verify(deployed, lambda x: deployed(x) + 1, [x])
    assert found.causes[0] == "Operations in float: 1 (normalize), 1 (multiply), 1 (add) and 1 more."
    assert tq.verify(deployed, tq.to_integer(deployed, x), [x + 0.3]).causes in ((), found.causes)
    deployed = prepared(nn.Sequential(nn.Linear(4, 4), Sorted()), x)
    assert tq.verify(deployed, lambda x: deployed(x) + 1, [x]).causes == ()
