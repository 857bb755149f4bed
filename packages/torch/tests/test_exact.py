"""One deployed network computes the same bits in whatever order its sums are added."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_trained import IMAGES, trained
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid, largest_bias, largest_sum, limited
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS


def without_onednn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):  # Winograd
        return model(x)


def in_one_thread(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        return model(x)
    finally:
        torch.set_num_threads(threads)


WAYS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "one by one": lambda model, x: torch.cat([model(image[None]) for image in x]),
    "channels last": lambda model, x: model(x.to(memory_format=torch.channels_last)),
    "without oneDNN": without_onednn,
    "another number of threads": in_one_thread,
    "in double": lambda model, x: torch.cat([doubled(model)(x.double())]).float(),
}


def doubled(model: nn.Module) -> nn.Module:
    """Sums in float64 are exact, whatever the bias."""
    return copy.deepcopy(model).double()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [8, 4])
def test_outputs_are_the_same(bits, way):
    deployed = tq.convert(trained(bits))
    with torch.no_grad():
        assert torch.equal(WAYS[way](deployed, IMAGES), deployed(IMAGES))


@pytest.mark.parametrize("bits", [8, 4])
def test_outputs_are_the_same_in_onnxruntime_at_every_level(bits, tmp_path):
    deployed = tq.convert(trained(bits))
    tq.export(deployed, tmp_path / "model.onnx", IMAGES[:2])
    with torch.no_grad():
        expected = deployed(IMAGES).numpy()
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
        (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
        assert np.array_equal(found, expected)


LAYERS = {"stem": ("x",), "depthwise": ("relu",), "wide": ("relu_1",), "up": ("relu_2",), "twice": ("mean", "relu_4")}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_bias_is_a_multiple_of_the_steps_of_weights_and_input(layer):
    model = trained()
    wrapper = model.get_submodule(layer)
    (weights,) = wrapper.weights_quantizers.values()
    assert tq.summary(model).rows  # the names of LAYERS are those of the summary
    inputs = [each.step() for each in wrapper.accumulator.inputs]
    assert len(inputs) == len(LAYERS[layer])
    bias = tq.convert(model).get_submodule(layer).bias
    step = weights.step() * max(inputs)
    levels = bias.double() / step.double().repeat(len(bias) // max(step.numel(), 1) if step.ndim else 1)
    assert torch.equal(levels, levels.round()) and not torch.equal(bias, wrapper.layer.bias)


@pytest.mark.parametrize("bits", [12, pytest.param(16, marks=pytest.mark.long), 24])
def test_no_sum_exceeds_the_bits_that_a_recipe_allows(bits):
    model = trained(accumulator_bits=bits)
    deployed = tq.convert(model)
    with torch.no_grad():
        assert torch.equal(deployed(IMAGES), model(IMAGES))
    found = {name: model.get_submodule(name).accumulator_bits() for name in LAYERS}
    assert max(found.values()) <= bits
    program = tq.to_integer(deployed, IMAGES[:1])
    sums = {each.name.partition(".")[0]: each.worst for each in program.accumulators()}
    assert all(sums[name] <= found[name] for name in LAYERS)
    (row,) = (row for row in tq.summary(model).rows if row.layer == "wide")
    assert re.search(r"sums of up to \d+ bits$", row.reason)


def test_the_bits_that_sums_needed_are_those_of_the_program():
    model = trained()
    program = tq.to_integer(tq.convert(model), IMAGES)
    wanted = dict.fromkeys(LAYERS, 0)
    for each in program.accumulators(IMAGES):
        name = each.name.partition(".")[0]
        wanted.update({name: max(wanted[name], each.seen)} if name in wanted else {})
    figures = tq.telemetry(model, [IMAGES[:16], IMAGES[16:]])
    assert {name: figures[f"{name}.weight/accumulator_bits_seen"] for name in LAYERS} == wanted
    report = tq.report(model, [IMAGES])
    seen = {each.layer: each.accumulator_bits_seen for each in report.tensors if each.target == "weights"}
    assert {name: seen[name] for name in LAYERS} == wanted
    rows = {row.layer: row.reason for row in tq.summary(model, [IMAGES]).rows}
    assert all(f" bits, {wanted[name]} seen" in rows[name] for name in LAYERS)
    assert " seen" not in str(tq.summary(model))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("weight_bits", "bits"), [(8, 24), (4, 16), (2, 32)])
def test_weights_too_few_to_exceed_a_limit_are_not_looked_at(weight_bits, bits, signed):
    method, params = tq.QuantizationMethod.POWER_OF_TWO, {tq.THRESHOLD: 1.0, tq.SIGNED: signed}
    config = tq.TrainableQuantizerActivationConfig(method, 8, params, True, tq.MIN_THRESHOLD)
    inputs = tq.STESymmetricActivationTrainableQuantizer(config)
    config = tq.TrainableQuantizerWeightsConfig(
        method, weight_bits, {tq.THRESHOLD: 1.0}, True, 0, True, tq.MIN_THRESHOLD
    )
    weights = tq.STESymmetricWeightsTrainableQuantizer(config)
    grid = tq.AccumulatorGrid(inputs, bits, 0)
    most = max(count for count in map(int, 2.0 ** np.arange(0, 24, 0.125)) if grid.always_holds(weights, count))
    room = np.float32([largest_sum(bits) - largest_bias(bits)])

    def exceeds(count):
        lowest = np.full((1, count), -(2 ** (weight_bits - 1)), np.float32)
        return bool(limited(NUMPY_OPS, lowest, room, 128 if signed else 255, signed)[1].any())

    assert not exceeds(most)
    assert exceeds(most + most // 8 + 2) or most > 2**22  # float32 adds no more of them exactly


def test_a_limited_weight_learns_straight_through():
    model = copy.deepcopy(trained(accumulator_bits=12))
    model.zero_grad()
    model.wide.weight.sum().backward()
    weight, step = model.wide.layer.weight, model.wide.weights_quantizers["weight"].step().reshape(-1, 1, 1, 1)
    inside = (weight / step <= 127) & (weight / step >= -128)
    assert not torch.equal(model.wide.weight, trained().wide.weight)
    assert torch.equal(weight.grad, inside.float())


def test_a_limit_that_holds_no_product_is_refused():
    with pytest.raises(tq.QuantizerError, match="bits must be at least 10 with inputs up to 128, got 9"):
        trained(accumulator_bits=9)


def test_where_sums_have_no_grid_the_summary_says_that_no_limit_holds():
    recipe = tq.Recipe(tq.WeightsScheme(accumulator_bits=16), tq.ActivationsScheme(method="symmetric"))
    model = tq.prepare(nn.Sequential(nn.Linear(4, 2)), recipe, [torch.randn(8, 4)], verbose=False)
    (row,) = (row for row in tq.summary(model).rows if row.weights)
    assert row.reason.endswith("bias in float and sums without a limit: the input is not on a power-of-two grid")


def test_float_biases_stay_where_a_recipe_says_so():
    model = trained(bias="float")
    assert torch.equal(tq.convert(model).head.bias, model.head.layer.bias)


def test_the_grid_follows_a_threshold_that_learns_and_the_bias_learns_straight_through():
    model = copy.deepcopy(trained())
    before = model.head.bias.detach()
    gradient = torch.ones_like(before)
    model.zero_grad()
    model.head.bias.backward(gradient)
    assert torch.equal(model.head.layer.bias.grad, gradient)
    with torch.no_grad():
        model.head.weight_threshold.mul_(2**10)
    assert not torch.equal(model.head.bias, before)
    assert torch.equal(tq.convert(model)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("again", ["copied", "pickled"])
def test_a_copy_follows_its_own_quantizers(again):
    model = trained()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = copy.deepcopy(model) if again == "copied" else torch.load(file, weights_only=False)
    (ours,), (theirs,) = model.wide.accumulator.inputs, other.wide.accumulator.inputs
    assert theirs is not ours and any(theirs._owner is module for module in other.modules())
    assert torch.equal(other(IMAGES), model(IMAGES))


def weights_quantizer(method: tq.QuantizationMethod) -> object:
    config = tq.TrainableQuantizerWeightsConfig(method, 4, {tq.THRESHOLD: 1.0}, True, 0, True, tq.MIN_THRESHOLD)
    return tq.LSQSymmetricWeightsTrainableQuantizer(config)


def test_a_layer_alone_takes_the_step_of_its_input():
    layer = nn.Linear(3, 2)
    quantizer = weights_quantizer(tq.QuantizationMethod.POWER_OF_TWO)
    wrapper = tq.PytorchTrainableQuantizationWrapper(layer, {"weight": quantizer}, accumulator=AccumulatorGrid(2**-4))
    assert torch.equal(wrapper.bias, torch.round(layer.bias * 2**7) / 2**7)
    assert torch.equal(wrapper.convert_to_inferable_quantizers().bias, torch.round(layer.bias * 2**7) / 2**7)


@pytest.mark.parametrize(
    ("layer", "method", "message"),
    [
        (
            nn.Linear(3, 2, bias=False),
            tq.QuantizationMethod.POWER_OF_TWO,
            "accumulator must be one without a bias, got 'Linear'",
        ),
        (nn.Linear(3, 2), tq.QuantizationMethod.SYMMETRIC, "one power-of-two quantizer with accumulator"),
    ],
)
def test_without_such_a_grid_there_is_an_error(layer, method, message):
    with pytest.raises(tq.QuantizerError, match=message):
        tq.PytorchTrainableQuantizationWrapper(
            layer, {"weight": weights_quantizer(method)}, accumulator=AccumulatorGrid(0.5)
        )
