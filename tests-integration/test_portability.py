"""Learned parameters from one framework to the other, through a file."""

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tt

import tensorflow as tf  # isort: skip  after torch
import trainable_quantizers_keras as tk  # isort: skip
from trainable_quantizers_keras.inventory import quantizers_of as keras_quantizers  # isort: skip
from trainable_quantizers_torch.inventory import quantizers_of as torch_quantizers  # isort: skip

keras = tf.keras
L = keras.layers
METHODS = ["power_of_two", "symmetric", "uniform"]
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()
        self.depth, self.head = torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.depth(self.act(self.conv(x))).mean((2, 3)))


def twins(method, bias="float", accumulator_bits=None):
    """The same network with the same weights in both; of sums with float biases, hardly one is a tie."""
    torch.manual_seed(0)
    network = Torch()
    image = keras.Input((8, 8, 3), name="x")
    x = keras.layers.ReLU(name="act")(keras.layers.Conv2D(8, 3, name="conv")(image))
    x = keras.layers.DepthwiseConv2D(3, name="depth")(x)
    twin = keras.Model(image, keras.layers.Dense(5, name="head")(keras.layers.GlobalAveragePooling2D(name="mean")(x)))
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    twin.set_weights(
        [
            weights["conv.weight"].transpose(2, 3, 1, 0),
            weights["conv.bias"],
            weights["depth.weight"].transpose(2, 3, 0, 1),
            weights["depth.bias"],
            weights["head.weight"].T,
            weights["head.bias"],
        ]
    )
    weights_scheme = {"num_bits": 4, "method": method, "bias": bias, "accumulator_bits": accumulator_bits}
    recipe = tt.Recipe(weights_scheme, {"num_bits": 4, "method": method})
    in_torch = tt.prepare(network, recipe, [torch.from_numpy(IMAGES)], verbose=False).eval()
    in_keras = tk.prepare(twin, recipe, [IMAGES.transpose(0, 2, 3, 1)], verbose=False)
    return in_torch, in_keras


def move(placed):
    for index, each in enumerate(placed):
        for name, value in each.values.items():
            each.quantizer.write_variable(name, value * np.float32(1 + 0.07 * (index + 1)))


def values(placed):
    return {(each.layer, each.target, name): v for each in placed for name, v in each.values.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["torch", "keras"])
def test_learned_parameters_move_to_the_twin(method, source, tmp_path):
    in_torch, in_keras = twins(method)
    file = tmp_path / "learned.safetensors"
    if source == "torch":
        move(torch_quantizers(in_torch))
        tt.save_quantizers(in_torch, file)
        tk.load_quantizers(in_keras, file)
    else:
        move(keras_quantizers(in_keras))
        tk.save_quantizers(in_keras, file)
        tt.load_quantizers(in_torch, file)
    ours, theirs = values(torch_quantizers(in_torch)), values(keras_quantizers(in_keras))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key])
    with torch.no_grad():
        one = in_torch(torch.from_numpy(IMAGES)).numpy()
    other = in_keras(IMAGES.transpose(0, 2, 3, 1)).numpy()
    head = next(each for each in torch_quantizers(in_torch) if (each.layer, each.target) == ("head", "activation"))
    low, high = (float(end) for end in head.quantizer.effective_range())
    step = (high - low) / (2**4 - 1)
    differing = np.abs(one - other) > 1e-6
    assert differing.mean() <= 0.1, "convolutions of two frameworks differ in the last bits: at ties alone"
    assert np.abs(one - other).max() <= 1.001 * step


@pytest.mark.parametrize("layer", ["conv", "depth", "head"])
def test_narrow_accumulators_change_the_same_weights_in_both(layer):
    (in_torch, in_keras), (wide, _) = twins("power_of_two", "accumulator", 9), twins("power_of_two", "accumulator")
    ours, theirs = in_torch.get_submodule(layer), in_keras.get_layer(layer)
    found = ours.weight.detach().numpy()
    order = {"conv": (2, 3, 1, 0), "depth": (2, 3, 0, 1), "head": (1, 0)}[layer]
    kernel = next(value for key, value in theirs.get_quantized_weights().items() if key != "bias")
    assert np.array_equal(found.transpose(order), kernel.numpy())
    assert ours.accumulator_bits() == theirs.accumulator_bits() <= 9 < wide.get_submodule(layer).accumulator_bits()


@pytest.mark.parametrize("layer", ["conv", "depth", "head"])
def test_biases_lie_on_the_same_grid_in_both(layer):
    in_torch, in_keras = twins("power_of_two", bias="accumulator")
    ours = in_torch.get_submodule(layer)
    theirs = in_keras.get_layer(layer).get_quantized_weights()["bias"]
    assert np.array_equal(ours.bias.detach().numpy(), theirs.numpy())
    assert not np.array_equal(ours.bias.detach().numpy(), ours.layer.bias.detach().numpy())


@pytest.mark.parametrize("accumulator_bits", [None, 9])
def test_twins_have_programs_that_differ_in_the_rule_for_ties_alone(accumulator_bits):
    in_torch, in_keras = twins("power_of_two", "accumulator", accumulator_bits)
    images = np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32)
    last = images.transpose(0, 2, 3, 1)
    ours = tt.to_integer(tt.convert(in_torch), torch.from_numpy(images))
    theirs = tk.to_integer(tk.convert(in_keras), last)
    assert tt.verify(in_torch, ours, [torch.from_numpy(images)]).identical
    assert tk.verify(in_keras, theirs, [last]).identical
    assert ours.rounding == {"half_even"} and theirs.rounding == {"half_up"}
    assert not np.array_equal(ours.run(images), theirs.run(last))
    assert np.array_equal(ours.with_rounding("half_up").run(images), theirs.run(last))
    assert np.array_equal(ours.run(images), theirs.with_rounding("half_even").run(last))


class Block(torch.nn.Module):
    """A MobileNet block and what comes around one: norms that fold, a sum, windows, a concatenation."""

    def __init__(self):
        super().__init__()
        self.expand, self.shown = torch.nn.Conv2d(3, 12, 1, bias=False), torch.nn.BatchNorm2d(12)
        self.depth, self.spread = torch.nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), torch.nn.BatchNorm2d(12)
        self.project, self.narrow = torch.nn.Conv2d(12, 3, 1, bias=False), torch.nn.BatchNorm2d(3)
        self.side, self.head = torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.Linear(17, 4)

    def forward(self, x):
        y = torch.nn.functional.relu6(self.shown(self.expand(x)))
        y = torch.nn.functional.relu6(self.spread(self.depth(y)))
        x = torch.relu(x + self.narrow(self.project(y)))
        sides = [self.side(x).relu(), torch.nn.functional.max_pool2d(y[:, :, :7, :7], 3, 2)]
        y = torch.nn.functional.avg_pool2d(torch.cat(sides, 1), 2, 1)
        return self.head(y.mean((2, 3)))


def block_twins():
    """The block with the same weights in both, its norms with statistics of data."""
    torch.manual_seed(1)
    network = Block().eval()
    with torch.no_grad():
        for norm in (network.shown, network.spread, network.narrow):
            for tensor in (norm.running_mean, norm.bias):
                tensor.normal_(0, 0.3)
            for tensor in (norm.running_var, norm.weight):
                tensor.uniform_(0.5, 2)
    image = keras.Input((8, 8, 3), name="x")

    def norm(name):
        return L.BatchNormalization(epsilon=1e-5, name=name)

    y = L.ReLU(6.0)(norm("shown")(L.Conv2D(12, 1, use_bias=False, name="expand")(image)))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth")(y)
    y = L.ReLU(6.0)(norm("spread")(y))
    x = L.ReLU()(L.Add()([image, norm("narrow")(L.Conv2D(3, 1, use_bias=False, name="project")(y))]))
    sides = [L.ReLU()(L.Conv2D(5, 3, 2, name="side")(x)), L.MaxPooling2D(3, 2)(L.Cropping2D(((0, 1), (0, 1)))(y))]
    y = L.AveragePooling2D(2, 1)(L.Concatenate()(sides))
    twin = keras.Model(image, L.Dense(4, name="head")(L.GlobalAveragePooling2D()(y)))
    axes = {"depth": (2, 3, 0, 1), "head": (1, 0)}
    for name, module in network.named_children():
        if isinstance(module, torch.nn.BatchNorm2d):
            values = [module.weight, module.bias, module.running_mean, module.running_var]
        else:
            values = [module.weight.permute(axes.get(name, (2, 3, 1, 0))), module.bias]
        arrays = [each.detach().numpy() for each in values if each is not None]
        twin.get_layer(name).set_weights(arrays)
    return network, twin


def test_programs_of_a_block_in_both_differ_in_the_rule_for_ties_alone():
    network, twin = block_twins()
    images = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32) * 2
    last = images.transpose(0, 2, 3, 1)
    recipe = tt.Recipe({"num_bits": 4}, {"num_bits": 4})
    options = {"fold_batch_norm": True, "verbose": False}
    in_torch = tt.convert(tt.prepare(network, recipe, [torch.from_numpy(images)], **options))
    in_keras = tk.convert(tk.prepare(twin, recipe, [last], **options))
    ours, theirs = tt.to_integer(in_torch, torch.from_numpy(images)), tk.to_integer(in_keras, last)
    assert tt.verify(in_torch, ours, [torch.from_numpy(images)]).identical
    assert tk.verify(in_keras, theirs, [last]).identical
    assert not ours.float_operations and not theirs.float_operations
    assert not np.array_equal(ours.run(images), theirs.run(last))
    for rule in ("half_even", "half_up", "half_away"):
        assert np.array_equal(ours.with_rounding(rule).run(images), theirs.with_rounding(rule).run(last))


@pytest.mark.parametrize("method", ["symmetric", "uniform"])
def test_programs_of_twins_with_other_steps_differ_in_the_rule_for_ties_alone_too(method):
    in_torch, in_keras = twins(method)
    images = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    last = images.transpose(0, 2, 3, 1)
    in_torch, in_keras = tt.convert(in_torch), tk.convert(in_keras)
    for rescale in ("float32", "fixed_point"):
        ours = tt.to_integer(in_torch, torch.from_numpy(images), rescale=rescale)
        theirs = tk.to_integer(in_keras, last, rescale=rescale)
        assert [each.operation for each in ours.steps] == [each.operation for each in theirs.steps]
        assert ours.rounding == {"half_even"} and theirs.rounding == {"half_up"}
        for rule in ("half_even", "half_up", "half_away"):
            pair = ours.with_rounding(rule).run(images), theirs.with_rounding(rule).run(last)
            assert np.array_equal(*pair)
        found = tt.verify(in_torch, ours, [torch.from_numpy(images)]), tk.verify(in_keras, theirs, [last])
        assert found[0].outputs[0].differing == found[1].outputs[0].differing, found
        for each in found:  # biases and multipliers are rounded: a value next to a tie moves by one level
            steps = [layer.scale / 7 for layer in each.layers]
            assert all(one.differing <= 0.1 * one.elements for one in each.layers), each
            assert all(one.largest <= 1.2 * step for one, step in zip(each.layers, steps, strict=True)), each
