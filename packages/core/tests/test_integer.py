"""Integer programs give what the operations on floats give, and their C files give what the programs give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.integer.arithmetic import FLOAT
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled
from trainable_quantizers_core.integer.dataflow import Dataflow, Node
from trainable_quantizers_core.integer.lattice import on_lattice, on_steps
from trainable_quantizers_core.integer.lower import lower
from trainable_quantizers_core.integer.program import Accumulator, Program
from trainable_quantizers_core.integer.rescale import multiplier, rescaled
from trainable_quantizers_core.integer.rounding import divide_rounded, round_floats, to_integers
from trainable_quantizers_core.integer.step import Step, Value
from trainable_quantizers_core.integer.sum_rules import window_counts
from trainable_quantizers_core.quantizer.accumulator import bits_of

NUMBERS = np.random.default_rng(0)
WINDOW = {"strides": [2, 1], "padding": [(1, 0), (1, 1)], "dilation": [1, 2]}
POOL = {"window": [3, 2], "strides": [2, 1], "padding": [(1, 0), (0, 1)]}


@pytest.fixture(autouse=True)
def _same_numbers():
    """Each test draws the same, whichever ran before it."""
    NUMBERS.bit_generator.state = np.random.default_rng(0).bit_generator.state


class Network:
    """Writes down nodes, and computes them in float64."""

    def __init__(self, *shapes: Sequence[int], dtypes: Sequence[str] | None = None, stretch: float = 1.0) -> None:
        self.inputs = [Node("input", "x", (), tuple(shape)) for shape in shapes]
        self.nodes: list[Node] = []
        self.dtypes = dtypes or ["float32"] * len(shapes)
        self.stretch = np.float32(stretch)  # of all steps and weights

    def add(self, kind: str, *inputs: Any, function: Callable[..., Any] | None = None, **attributes: Any) -> Node:
        if kind in ("convolution", "matmul") and isinstance(inputs[1], np.ndarray):
            inputs = (inputs[0], inputs[1] * self.stretch, *inputs[2:])
        empty = [np.zeros(each.shape) if isinstance(each, Node) else each for each in inputs]
        shape = empty[0].shape if kind == "quantize" else FLOAT[kind](*empty, **attributes).shape
        self.nodes.append(Node(kind, kind, inputs, shape, attributes, function))
        return self.nodes[-1]

    def quantize(self, x: Node, step: float = 0.25, bits: int = 8, rule: str = "half_even", zero: int = 0) -> Node:
        low, high = -(2 ** (bits - 1)) + zero, 2 ** (bits - 1) - 1 + zero
        step = float(np.float32(step) * self.stretch ** (len(self.nodes) + 1))  # no two steps have a simple ratio
        return self.add("quantize", x, step=step, zero=zero, low=low, high=high, rule=rule)

    def program(self, *outputs: Node, rescale: str = "float32") -> Program:
        named = [(f"out{at}", each) for at, each in enumerate(outputs)]
        return lower(Dataflow(self.inputs, self.nodes, named, self.dtypes), RescaleRule(rescale))

    def expected(self, output: Node, *given: np.ndarray) -> np.ndarray:
        known: dict[int, Any] = dict(zip(map(id, self.inputs), given, strict=True))
        for node in self.nodes:
            read = [known[id(each)] if isinstance(each, Node) else np.asarray(each, np.float64) for each in node.inputs]
            if node.kind == "quantize":
                a = node.attributes
                levels = np.clip(
                    round_floats(read[0] / a["step"], RoundingRule(a["rule"])) + a["zero"], a["low"], a["high"]
                )
                known[id(node)] = (levels - a["zero"]) * a["step"]
            else:
                known[id(node)] = FLOAT[node.kind](*read, **node.attributes)
        return known[id(output)].astype(np.float32)


def weights(*shape: int, axis: int | None = 0) -> np.ndarray:
    """Levels of 4 bits with a power of two for each channel."""
    steps = np.ones(1)
    if axis is not None:
        steps = 2.0 ** NUMBERS.integers(-5, -1, [size if at == axis else 1 for at, size in enumerate(shape)])
    return (NUMBERS.integers(-8, 8, shape) * steps).astype(np.float32)


def conv(net: Network, x: Node, weight: np.ndarray, groups: int = 1, last: bool = False, **window: Any) -> Node:
    bias = (NUMBERS.integers(-99, 99, len(weight)) * 2.0**-4).astype(np.float32)
    return net.add("convolution", x, weight, bias, **(WINDOW | window), groups=groups, channels_last=last)


def average(net: Network, x: Node, own: bool, last: bool = False) -> Node:
    counts = window_counts(x.shape[1:3] if last else x.shape[2:], **POOL, own=own).tolist()
    return net.add("average_pool", x, counts=counts, channels_last=last, **POOL)


OPERATIONS: dict[str, tuple[tuple[int, ...], Callable[[Network, Node], Node]]] = {
    "a convolution": ((1, 4, 6, 5), lambda net, x: conv(net, x, weights(6, 4, 3, 2))),
    "a convolution in groups": ((1, 4, 6, 5), lambda net, x: conv(net, x, weights(6, 2, 3, 2), groups=2)),
    "a depthwise convolution": ((1, 4, 6, 5), lambda net, x: conv(net, x, weights(8, 1, 3, 2), groups=4)),
    "a convolution, channels last": ((1, 6, 5, 4), lambda net, x: conv(net, x, weights(6, 4, 3, 2), last=True)),
    "a convolution of a line": (
        (1, 4, 9),
        lambda net, x: conv(net, x, weights(3, 4, 3), strides=[2], padding=[(1, 1)], dilation=[2]),
    ),
    "a matrix": ((1, 5), lambda net, x: net.add("matmul", x, weights(5, 3, axis=1), np.float32([0.5, -2.0, 0.0]))),
    "a matrix for each row": ((1, 4, 5), lambda net, x: net.add("matmul", x, weights(5, 3, axis=1))),
    "a product of activations": (
        (1, 4, 5),
        lambda net, x: net.add("matmul", x, net.quantize(net.add("transpose", x, axes=[0, 2, 1]), 0.5, 4)),
    ),
    "a sum of two grids": ((1, 7), lambda net, x: net.add("add", net.quantize(x, 2.0), x)),
    "a difference": ((1, 7), lambda net, x: net.add("subtract", x, net.quantize(x, 0.5, 3))),
    "a sum with a constant": ((1, 3, 2), lambda net, x: net.add("add", x, np.float32([[0.375], [1.0], [-4.0]]))),
    "a product": ((1, 7), lambda net, x: net.add("multiply", x, net.quantize(x, 0.5, 3))),
    "a product with a constant": ((1, 7), lambda net, x: net.add("multiply", x, np.float32(0.75))),
    "a product with a power of two": ((1, 7), lambda net, x: net.add("multiply", np.float32(0.125), x)),
    "a quotient": ((1, 7), lambda net, x: net.add("divide", x, np.float32(6.0))),
    "a quotient by a power of two": ((1, 7), lambda net, x: net.add("divide", x, np.float32(4.0))),
    "the negative": ((1, 7), lambda net, x: net.add("negate", x)),
    "ReLU": ((1, 4, 6, 5), lambda net, x: net.add("clip", conv(net, x, weights(6, 4, 3, 2)), low=0.0, high=None)),
    "ReLU6": ((1, 4, 6, 5), lambda net, x: net.add("clip", conv(net, x, weights(6, 4, 3, 2)), low=0.0, high=6.0)),
    "ReLU6 of coarse steps": ((1, 9), lambda net, x: net.add("clip", net.quantize(x, 4.0), low=0.0, high=6.0)),
    "leaky ReLU": ((1, 7), lambda net, x: net.add("leaky_relu", x, slope=0.25)),
    "the larger of two": ((1, 7), lambda net, x: net.add("maximum", x, net.quantize(x, 0.5, 3))),
    "the smaller of two": ((1, 7), lambda net, x: net.add("minimum", net.add("negate", x), x)),
    "no larger than a constant": ((1, 7), lambda net, x: net.add("minimum", x, np.float32(1.5))),
    "a maximum of windows": (
        (1, 2, 6, 5),
        lambda net, x: net.add("max_pool", x, **POOL, dilation=[1, 2], channels_last=False),
    ),
    "a maximum of windows, channels last": (
        (1, 6, 5, 2),
        lambda net, x: net.add("max_pool", x, **POOL, dilation=[1, 2], channels_last=True),
    ),
    "a mean of windows": ((1, 2, 6, 5), lambda net, x: average(net, x, own=False)),
    "a mean of windows that count less at borders": ((1, 2, 6, 5), lambda net, x: average(net, x, own=True)),
    "a mean of windows, channels last": ((1, 6, 5, 2), lambda net, x: average(net, x, own=True, last=True)),
    "a mean": ((1, 2, 7, 7), lambda net, x: net.add("mean", x, axes=[2, 3], keep=False)),
    "a mean of channels with steps of their own": (
        (1, 4, 6, 5),
        lambda net, x: net.add("mean", conv(net, x, weights(6, 4, 3, 2)), axes=[1, 2], keep=True),
    ),
    "a mean of sums on a grid, and a sum": (
        (1, 3, 5),
        lambda net, x: net.add(
            "add", net.add("mean", x, axes=[2], keep=True), net.add("mean", x, axes=[1, 2], keep=True)
        ),
    ),
    "a total": ((1, 2, 3, 4), lambda net, x: net.add("total", x, axes=[1], keep=False)),
    "the largest": ((1, 2, 3, 4), lambda net, x: net.add("largest", x, axes=[2, 3], keep=False)),
    "another shape": ((1, 2, 6), lambda net, x: net.add("reshape", x, sizes=[1, 3, 4])),
    "axes in another order": ((1, 2, 3, 4), lambda net, x: net.add("transpose", x, axes=[0, 3, 1, 2])),
    "a part": ((1, 6, 5), lambda net, x: net.add("part", x, starts=[0, 1, 4], stops=[1, 6, -1], steps=[1, 2, -1])),
    "zeros around": ((1, 2, 3), lambda net, x: net.add("pad", x, padding=[(0, 0), (1, 0), (0, 2)], value=0.0)),
    "a value around": ((1, 2, 3), lambda net, x: net.add("pad", x, padding=[(0, 0), (1, 0), (0, 2)], value=-1.5)),
    "zeros between": ((1, 2, 3), lambda net, x: net.add("spread", x, axes=[1, 2], factors=[2, 3], after=[1, 0])),
    "one after the other": ((1, 2, 3), lambda net, x: net.add("concatenate", x, net.quantize(x, 2.0, 4), axis=2)),
    "one after a constant": ((1, 1, 3), lambda net, x: net.add("concatenate", np.float32([[[1, 2, 3.5]]]), x, axis=1)),
    "repeated": ((1, 2, 1), lambda net, x: net.add("broadcast", x, sizes=[1, 2, 4])),
    "values at places": ((1, 4, 2), lambda net, x: net.add("take", x, np.array([3, 0, 0]), axis=1)),
    "chosen": ((1, 3, 2), lambda net, x: net.add("where", np.array([[[1], [0], [1]]]), x, net.quantize(x, 2.0))),
    "masked by nothing": ((1, 2), lambda net, x: net.add("where", np.zeros((1, 2)), np.float32(-np.inf), x)),
    "a table": ((1, 9), lambda net, x: net.add("tanh", x, function=np.tanh)),
    "a table of several functions": (
        (1, 9),
        lambda net, x: net.add("multiply", x, net.add("sigmoid", x, function=FLOAT["sigmoid"]), function=np.multiply),
    ),
    "a table that is moved": (
        (1, 9),
        lambda net, x: net.add("reshape", net.add("exp", x, function=np.exp), sizes=[3, 3]),
    ),
}
RULES = [rule.value for rule in RoundingRule]
RESCALES = [rule.value for rule in RescaleRule]


def built(name: str, rule: str, stretch: float = 1.0) -> tuple[Network, Node, np.ndarray]:
    shape, build = OPERATIONS[name]
    net = Network(shape, stretch=stretch)
    output = net.quantize(build(net, net.quantize(net.inputs[0], rule=rule)), 1.0, rule=rule)
    return net, output, NUMBERS.normal(0, 4, (5, *shape[1:])).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_program_gives_what_floats_give(name, rule):
    net, output, x = built(name, rule)
    program = net.program(output)
    expected = np.concatenate([net.expected(output, one[None]) for one in x])
    assert np.array_equal(program.run(x), expected)
    assert np.abs(expected).max() > 0
    assert program.float_operations == []
    assert np.array_equal(program.run(x, integers=True), expected)  # its step is 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_c_file_gives_what_its_program_gives(name):
    net, output, x = built(name, RULES[len(name) % 3])
    program = net.program(output)
    assert np.array_equal(compiled(program)(x), program.run(x))


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_where_steps_are_no_powers_of_two_hardly_a_value_is_the_next_level(name, rescale):
    net, output, x = built(name, "half_even", stretch=0.93)
    x = NUMBERS.normal(0, 4, (40, *x.shape[1:])).astype(np.float32)
    program = net.program(output, rescale=rescale)
    expected = np.concatenate([net.expected(output, one[None]) for one in x])
    off = np.abs(program.run(x) - expected)
    assert off.max() <= 1.0
    assert (off > 1e-6).mean() <= 0.03
    assert program.float_operations == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_c_file_rescales_as_its_program_does(name):
    net, output, x = built(name, RULES[len(name) % 3], stretch=0.93)
    program = net.program(output, rescale="fixed_point")
    assert np.array_equal(compiled(program)(x), program.run(x))


@pytest.mark.parametrize("rule", RULES)
def test_ties_are_rounded_by_the_rule(rule):
    values = np.arange(-9, 10)
    halves = round_floats(values / 2, RoundingRule(rule)).astype(np.int64)
    assert np.array_equal(divide_rounded(values, 2, RoundingRule(rule)), halves)
    expected = {"half_even": [-2, 0, 0, 2], "half_up": [-1, 0, 1, 2], "half_away": [-2, -1, 1, 2]}
    assert to_integers(np.float32([-1.5, -0.5, 0.5, 1.5]), 1.0, -9, 9, RoundingRule(rule)).tolist() == expected[rule]


def test_a_program_takes_another_rule_for_ties():
    net = Network((1, 4))
    program = net.program(net.quantize(net.quantize(net.inputs[0], 0.5), 1.0))
    x = np.float32([[-1.5, -0.5, 0.5, 1.5]])
    found = {rule: program.with_rounding(rule).run(x)[0].tolist() for rule in RULES}
    assert found == {"half_even": [-2, 0, 0, 2], "half_up": [-1, 0, 1, 2], "half_away": [-2, -1, 1, 2]}
    with pytest.raises(
        QuantizerError, match="rounding must be one of half_even, half_up, half_away, got 'half_evn'; did you"
    ):
        program.with_rounding("half_evn")


def test_a_quantizer_with_a_zero_point_gives_the_same_numbers():
    net = Network((1, 9))
    output = net.quantize(net.quantize(net.inputs[0], zero=128), 0.5, zero=7)
    x = NUMBERS.normal(0, 30, (3, 9)).astype(np.float32)
    assert np.array_equal(net.program(output).run(x), net.expected(output, x))


def test_several_outputs_come_by_name_and_integers_with_their_exponents():
    net = Network((1, 3), (1, 3))
    one, two = (net.quantize(each) for each in net.inputs)
    x, y = NUMBERS.normal(0, 4, (2, 4, 3)).astype(np.float32)
    program = net.program(one, net.add("add", one, two))
    found = program.run({"a": x, "b": [y]})
    assert list(found) == ["out0", "out1"]
    assert np.array_equal(found["out1"], net.expected(net.nodes[-1], x, y))
    assert np.array_equal(program.run(x, y, integers=True)["out1"] * 0.25, found["out1"])
    assert np.array_equal(compiled(program)(x, y)["out1"], found["out1"])


def test_inputs_that_are_moved_first_are_quantized_first():
    net = Network((1, 2, 3))
    around = net.add("take", net.add("transpose", net.inputs[0], axes=[0, 2, 1]), np.array([1, 0, 2, 1]), axis=1)
    output = net.quantize(around)
    program = net.program(output)
    x = NUMBERS.normal(0, 4, (3, 2, 3)).astype(np.float32)
    assert [step.operation for step in program.steps] == ["quantize", "transpose", "take"]
    assert np.array_equal(program.run(x), net.expected(output, x))


@pytest.mark.parametrize(("value", "first"), [(0.0, "quantize"), (0.5, "quantize"), (0.3, "pad")])
def test_inputs_that_are_padded_by_a_level_are_quantized_first(value, first):
    net = Network((1, 3))
    output = net.quantize(net.add("pad", net.inputs[0], padding=[(0, 0), (1, 2)], value=value))
    program = net.program(output)
    x = NUMBERS.normal(0, 4, (3, 3)).astype(np.float32)
    assert program.steps[0].operation == first
    assert np.array_equal(program.run(x), net.expected(output, x))


def test_an_embedding_reads_its_table_at_the_given_integers():
    net = Network((1, 4), dtypes=["int64"])
    table = weights(10, 3, axis=None)
    output = net.quantize(net.add("take", table, net.inputs[0], axis=0), 1.0)
    tokens = NUMBERS.integers(0, 10, (2, 4))
    program = net.program(output)
    assert np.array_equal(program.run(tokens), net.expected(output, tokens))
    assert np.array_equal(compiled(program)(tokens), program.run(tokens))


def test_operations_without_integers_are_computed_in_float_and_named():
    net = Network((1, 4))
    output = net.quantize(net.add("softmax", net.quantize(net.inputs[0]), axis=1), 2.0**-8, 9)
    program = net.program(output)
    assert program.float_operations == ["softmax (softmax)"]
    assert "In float: softmax (softmax)." in str(program)
    x = NUMBERS.normal(0, 2, (3, 4)).astype(np.float32)
    assert np.abs(program.run(x) - net.expected(output, x)).max() <= 2.0**-8
    with pytest.raises(QuantizerError, match=r"program must be of integers alone, got \['softmax \(softmax\)'\]"):
        c_source(program)


def test_weights_on_no_grid_are_computed_in_float():
    net = Network((1, 4))
    net.add("matmul", net.quantize(net.inputs[0]), NUMBERS.normal(size=(4, 2)).astype(np.float32))
    assert net.program(net.nodes[-1]).float_operations == ["matmul (matmul)"]


def test_biases_off_the_grid_are_rounded_and_noted():
    net = Network((1, 2))
    bias = np.float32([0.3, 1.0])
    output = net.add("matmul", net.quantize(net.inputs[0]), weights(2, 2, axis=1) + 1, bias)
    program = net.program(output)
    assert program.notes == ["matmul: 1 of 2 biases were off the accumulator grid and are rounded."]
    assert program.notes[0] in str(program)
    x = NUMBERS.normal(0, 2, (3, 2)).astype(np.float32)
    assert 0 < np.abs(program.run(x) - net.expected(output, x)).max() < 0.25


def test_biases_tell_of_grids_that_are_finer_than_their_weights():
    net = Network((1, 2))
    even = np.float32([[0.5, 0.125], [1.0, 0.875]])
    net.add("matmul", net.quantize(net.inputs[0]), even, np.float32([2.0**-5, 0.0]))
    assert net.program(net.nodes[-1]).notes == []


def test_accumulators_are_known_at_worst_and_as_seen():
    net = Network((1, 4))
    net.add("matmul", net.quantize(net.inputs[0], 1.0), np.float32([[1], [2], [-1], [7]]))
    program = net.program(net.nodes[-1])
    assert program.accumulators() == [Accumulator("matmul", bits_of(-128 * 11, 128 * 11))]
    assert program.accumulators(np.float32([[1, 1, 0, 0]])) == [Accumulator("matmul", 12, 3)]


def test_sums_that_float32_rounds_are_a_cause():
    net = Network((1, 600))
    for count in (500, 600):
        x = net.add("part", net.quantize(net.inputs[0], 1.0), starts=[0, 0], stops=[1, count], steps=[1, 1])
        last = net.add("matmul", x, np.full((count, 1), 255, np.float32))
    program = net.program(net.nodes[-2], last)
    first, ties = program.causes
    assert first == "Sums beyond 2^24 at worst, which float32 rounds: matmul (26 bits)."
    assert ties == "Ties are rounded half_even."


def test_saved_programs_come_back_the_same(tmp_path):
    net, output, x = built("ReLU6", "half_up")
    program = net.program(output)
    program.save(tmp_path / "program.safetensors")
    loaded = Program.load(tmp_path / "program.safetensors")
    assert np.array_equal(loaded.run(x), program.run(x))
    assert loaded.steps == list(program.steps) and loaded.rounding == {RoundingRule.HALF_UP}
    assert c_source(loaded) == c_source(program)


def test_other_files_are_no_programs(tmp_path):
    path = tmp_path / "program.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(QuantizerError, match="path must be a program, got"):
        Program.load(path)
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(
        QuantizerError, match="path must be a file of format 'trainable-quantizers program 1', got None"
    ):
        Program.load(path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "inputs must be 1 array, got 0"),
        ((np.zeros((2, 3)),), r"input must be of shape \(samples, 7\), got \(2, 3\)"),
    ],
)
def test_wrong_inputs_are_refused(inputs, message):
    net, output, _ = built("a sum of two grids", "half_up")
    with pytest.raises(QuantizerError, match=message):
        net.program(output).run(*inputs)


KINDS = {
    "complex": ("float32", np.zeros((2, 3), np.complex64), "of numbers, got 'complex64'"),
    "words": ("float32", np.full((2, 3), "one"), "of numbers, got 'str"),
    "tokens with fractions": ("int64", np.full((2, 3), 1.5), "of whole numbers, got 'float64'"),
    "a token too many": ("int64", np.full((2, 3), 10), "indices must be from 0 to 9, got '10 to 10'"),
    "a token below zero": ("int64", np.full((2, 3), -1), "indices must be from 0 to 9, got '-1 to -1'"),
}


@pytest.mark.parametrize("name", KINDS)
def test_inputs_of_another_kind_are_refused(name):
    dtype, given, message = KINDS[name]
    net = Network((1, 3), dtypes=[dtype])
    tokens = dtype == "int64"
    x = net.add("take", weights(10, 2, axis=None), net.inputs[0], axis=0) if tokens else net.inputs[0]
    with pytest.raises(QuantizerError, match=message):
        net.program(net.quantize(x)).run(given)


def test_infinite_inputs_are_clipped():
    net = Network((1, 4))
    output = net.quantize(net.inputs[0], step=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = net.program(output).run(np.float32([[np.inf, -np.inf, 3.4e38, np.nan]]))
    assert found.tolist() == [[127.0, -128.0, 127.0, 0.0]]


FAR_APART = {
    "all of them become zero": (1.0, [2.0**-30, 2.0**-90], 2.0**20),
    "one channel becomes zero": (1.0, [1.0, 2.0**-90], 1.0),
    "none but zero stays on the grid": (1.0, [2.0**30, 1.0], 2.0**-60),
    "one channel leaves the grid": (2.0**40, [2.0**60, 2.0**-40], 1.0),
    "means, too": (2.0**-40, [2.0**-40, 2.0**-41], 1.0),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FAR_APART)
def test_steps_far_apart_are_shifted_within_64_bits(name, rule):
    step, scales, wanted = FAR_APART[name]
    net = Network((1, 2, 3))
    x = net.add("quantize", net.inputs[0], step=step, zero=0, low=-128, high=127, rule=rule)
    window = {"strides": [1], "padding": [(0, 0)], "dilation": [1]}
    weight = (NUMBERS.integers(-128, 128, (2, 2, 1)) * np.reshape(scales, (2, 1, 1))).astype(np.float32)
    x = net.add("convolution", x, weight, groups=1, channels_last=False, **window)
    x = net.add("mean", x, axes=[2], keep=False) if name == "means, too" else x
    output = net.add("quantize", x, step=wanted, zero=0, low=-128, high=127, rule=rule)
    given = (NUMBERS.normal(0, 50, (4, 2, 3)) * step).astype(np.float32)
    given[0] = 0
    program = net.program(output)
    expected = np.concatenate([net.expected(output, each[None]) for each in given])
    assert np.array_equal(program.run(given), expected)
    assert np.array_equal(compiled(program)(given), expected)


def test_sums_of_many_bits_leave_a_fine_grid_at_its_ends():
    net = Network((1, 3))
    x = net.add("quantize", net.inputs[0], step=1.0, zero=0, low=-32768, high=32767, rule="half_even")
    x = net.add("multiply", net.add("multiply", x, x), x)
    output = net.add("quantize", x, step=2.0**-40, zero=0, low=-128, high=127, rule="half_even")
    program, given = net.program(output), np.float32([[32767, 0, -32768], [1, -1, 0]])
    assert np.array_equal(program.run(given), net.expected(output, given))
    assert np.array_equal(compiled(program)(given), net.expected(output, given))


def test_inputs_of_different_counts_are_refused():
    net = Network((1, 3), (1, 3))
    program = net.program(net.add("add", *(net.quantize(each) for each in net.inputs)))
    with pytest.raises(QuantizerError, match=r"of as many samples each, at least one, got \[\(2, 3\), \(1, 3"):
        program.run(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(QuantizerError, match=r"at least one, got \[\(0, 3\), \(0, 3"):
        program.run(np.zeros((0, 3)), np.zeros((0, 3)))


def test_a_number_among_the_inputs_goes_to_every_sample():
    net = Network((1, 3), ())
    output = net.add("multiply", net.quantize(net.inputs[0]), net.quantize(net.inputs[1]))
    x = NUMBERS.normal(0, 4, (2, 3)).astype(np.float32)
    assert np.array_equal(net.program(output).run(x, np.float32(1.5)), net.expected(output, x, np.float32(1.5)))


def test_integers_beyond_their_bounds_stop_a_program():
    values = [Value((1, 1), "float32"), Value((1, 1), low=-8, high=7), Value((1, 1), low=-8, high=7)]
    quantize = Step("quantize", "x", (0,), 1, {"step": 1.0, "low": -8, "high": 7, "rule": "half_up"})
    program = Program(values, [quantize, Step("add", "sum", (1, 1), 2)], {}, [0], {"output": 2})
    assert program.run(np.float32([[3]])).item() == 6
    with pytest.raises(QuantizerError, match="sum: add gave 14 to 14, beyond -8 to 7"):
        program.run(np.float32([[7]]))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Step("quantize", "x", (0,), 1, {"step": 1.0, "low": -8, "high": 7, "zero": 0}), "TypeError: .* argument"),
        (Step("squared", "x", (0,), 1), "KeyError: 'squared'"),
        (Step("add", "x", (0, 3), 1), "KeyError: 3"),
    ],
)
def test_a_program_of_other_steps_stops_with_their_name(step, told):
    program = Program([Value((1, 1), "float32"), Value((1, 1), low=-8, high=7)], [step], {}, [0], {"output": 1})
    with pytest.raises(QuantizerError, match=f"^x: {step.operation} cannot be computed: {told}.*Rebuild the program"):
        program.run(np.float32([[3]]))


def test_operations_without_a_definition_are_refused():
    net = Network((1, 3))
    net.nodes.append(Node("fft", "f", (net.quantize(net.inputs[0]),), (1, 3)))
    with pytest.raises(QuantizerError, match="got \"fft of 'f'\""):
        net.program(net.nodes[-1])


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply"])
def test_c_computes_in_64_bits_what_32_do_not_hold(operation):
    low, high = -(2**31) + 1, 2**31 - 1
    ends = {"add": 2**32, "subtract": 2**32, "multiply": 2**62}[operation]
    values = [Value((1, 3), "int32", low=low, high=high), Value((1, 3), low=-ends, high=ends)]
    program = Program(values, [Step(operation, "x", (0, "c0"), 1)], {"c0": np.array([high, low, 2])}, [0], {"out": 1})
    x = np.array([[high, high, low]], np.int32)
    assert np.array_equal(compiled(program)(x), program.run(x))


def test_names_of_a_network_are_no_names_of_its_c_file():
    net = Network((1, 3))
    x = net.quantize(net.inputs[0])
    doubled = net.add("add", x, x)
    net.nodes[-1] = doubled = replace(doubled, name="first*/ /*second\\")
    named = [("v0", doubled), ("c0", x), ("int", x), ("a.b", x), ("a b", doubled)]
    program = lower(Dataflow(net.inputs, net.nodes, named, net.dtypes))
    given, found = np.float32([[1, 2, -3]]), compiled(program)
    assert {key: value.tolist() for key, value in found(given).items()} == {
        key: value.tolist() for key, value in program.run(given).items()
    }


def test_c_needs_a_name_and_a_compiler(monkeypatch):
    net, output, _ = built("a table", "half_up")
    program = net.program(output)
    with pytest.raises(QuantizerError, match="name must be a C identifier, got 'a b'"):
        c_source(program, "a b")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(QuantizerError, match="compiler must be on the PATH, got 'no-such-compiler'"):
        compiled(program)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(QuantizerError, match="source must be one that the compiler takes"):
        compiled(program)


STEPPED = {
    "one step for all": (np.array([[3, -7], [1, 120]]), [0.3, 0.3], [0.3, 0.3]),
    "a step for each channel": (np.array([[3, -128], [127, 64]]), [0.3, 0.71], [0.3, 0.71]),
    "16 bits": (np.array([[32767, 12345, 7], [-32768, 5, 20001]]), [1e-4, 3.1], [1e-4, 3.1]),
    "a channel of zeros has the finest": (np.array([[0, 0], [127, 5], [125, 9]]), [1, 0.71, 0.3], [0.3, 0.71, 0.3]),
    "a channel of one weight is no coarser": (np.array([[0, 3], [127, 1]]), [0.4, 0.71], [1.2 / 127, 0.71]),
    "few levels of many": (np.array([[1, -2], [100, 127]]), [0.3, 0.3], [0.3, 0.3]),
}


@pytest.mark.parametrize("name", STEPPED)
def test_the_steps_of_weights_are_found(name):
    levels, steps, expected = STEPPED[name]
    weight = (levels * np.float32(steps)[:, None].astype(np.float32)).astype(np.float32)
    found = on_steps(weight.T, axis=1)
    assert found is not None
    assert np.allclose(found[1], expected, rtol=1e-6)
    assert np.allclose(found[0] * found[1], weight.T, rtol=1e-6)


def test_weights_that_are_no_multiples_have_no_steps():
    assert on_steps(NUMBERS.normal(size=(3, 9)).astype(np.float32), axis=0) is None


@pytest.mark.parametrize("bits", [9, 24, 32, 45])
def test_fixed_point_rounds_once(bits):
    x = NUMBERS.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 500)
    factors = np.array([0.7, 3e-3, 1e-9, 1.0, 1.9, 2.0**-40])
    factor, shift = multiplier(factors, bits, RescaleRule.FIXED_POINT)
    spread = {"axis": 0, "low": -(2**62), "high": 2**62}
    found = rescaled(np.tile(x, (len(factors), 1)), factor, shift, rule=RoundingRule.HALF_UP, **spread)
    for row, whole, places in zip(found, factor.tolist(), shift.tolist(), strict=True):
        assert row.tolist() == [(2 * each * whole + 2**places) >> (places + 1) for each in x.tolist()]
    exact = np.abs(np.ldexp(factor.astype(np.float64), -shift) / factors - 1)
    assert exact.max() <= 2.0 ** -min(31, 63 - bits)


@pytest.mark.parametrize(
    ("values", "axis", "exponents"),
    [
        ([0.75, -2.0], None, -2),
        ([0.0, 0.0], None, 0),
        ([[3.0, 0.0], [0.5, 2.0]], 0, [0, -1]),
        ([2.0**-140], None, -140),
    ],
)
def test_constants_are_integers_times_a_power_of_two(values, axis, exponents):
    whole, found = on_lattice(np.float32(values), axis)
    assert found.tolist() == exponents
    shape = (-1, 1) if axis == 0 else ()
    assert np.array_equal(np.ldexp(whole.astype(np.float64), found.reshape(shape)), np.float32(values))
