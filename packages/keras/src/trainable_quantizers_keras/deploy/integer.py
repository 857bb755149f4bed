"""A converted model as an integer program."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import QuantizerError, invalid, member
from trainable_quantizers_core.integer.dataflow import Dataflow, Node, as_node, no_definition
from trainable_quantizers_core.integer.lower import lower
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.tie_rules import Rounding, TieRules

from trainable_quantizers_keras.calibration.batches import in_words, inputs_of, named_tensors
from trainable_quantizers_keras.deploy.convert import quantized_inside
from trainable_quantizers_keras.deploy.translation import TensorFlowTranslation
from trainable_quantizers_keras.graph.watch import named_layers, replaced_calls
from trainable_quantizers_keras.keras_version import keras


def to_integer(
    model: Any,
    example_inputs: Any,
    rounding: Rounding = RoundingRule.HALF_UP,
    rescale: RescaleRule | str = RescaleRule.FLOAT32,
) -> Program:
    """Turn a converted model into a program of integer operations that numpy runs.

    The model is traced by TensorFlow for one sample. Weights and biases become integers, quantizers become shifts
    (products where steps are no powers of two), and functions of one value become tables; see docs/integer.md.

    Args:
        model: A model from ``convert``.
        example_inputs: A batch as for ``prepare``; samples are counted along the first axis.
        rounding: How quantizers round ties: pass the rule of the recipe if it names one; the default is the rule of the
            framework. Or rules by name patterns, of which the first that matches counts: ``{"add*": "half_up"}``.
        rescale: How quantizers whose steps are no powers of two rescale: ``float32``, or ``fixed_point`` for a program
            of integers alone, which a C file needs. With power-of-two ranges nothing is rescaled.

    Raises:
        QuantizerError: no such rule, or a pattern that matches no name; the model holds trainable quantizers or
            operations that a program does not know; or TensorFlow does not trace it.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, convert, prepare, verify
        >>> import numpy as np
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        >>> deployed = convert(prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False))
        >>> program = to_integer(deployed, x)
        >>> program.float_operations
        []
        >>> print(verify(deployed, program, [x]))
        All 16 output values are identical.
    """
    if not isinstance(model, keras.Model):
        raise invalid("to_integer", "model", "a converted model", model, "pass what convert returned")
    if quantized_inside(model):
        raise invalid("to_integer", "model", "converted", model.name, "pass convert(model)")
    try:
        inputs = inputs_of(model, example_inputs)
    except QuantizerError:
        raise
    except Exception as error:  # anything that the names of inputs raise
        raise _not_traced(example_inputs, error) from error
    ties = TieRules("to_integer", rounding)
    rescale = member("to_integer", "rescale", RescaleRule, rescale)
    program = program_of(model, inputs, ties, rescale)
    ties.check_used()
    return program


def program_of(
    model: Any,
    inputs: Any,
    ties: TieRules,
    rescale: RescaleRule = RescaleRule.FLOAT32,
) -> Program:
    """The program of a converted model from what it is called on.

    Raises:
        QuantizerError: as of ``to_integer``.
    """
    inputs = tf.nest.map_structure(lambda leaf: leaf[:1], inputs)
    try:
        results = model(inputs, training=False)
        layers = named_layers(model)
        with _marked(layers.values()):
            frozen = _frozen(model, inputs)
    except QuantizerError:
        raise
    except Exception as error:  # anything that a layer raises
        raise _not_traced(inputs, error) from error
    names = [name for name, _ in named_tensors(results, "output")]
    return lower(_dataflow(frozen, names, list(layers), ties), rescale)


def _not_traced(inputs: Any, error: Exception) -> QuantizerError:
    advice = f"TensorFlow says: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return invalid("to_integer", "model", "one that can be traced with these inputs", in_words(inputs), advice)


def _frozen(model: Any, inputs: Any) -> Any:
    """The model for one sample as one graph of constants."""
    leaves = tf.nest.flatten(inputs)

    @tf.function(input_signature=[tf.TensorSpec(value.shape, value.dtype) for value in leaves])
    def serve(*values: tf.Tensor) -> Any:
        return tf.nest.flatten(model(tf.nest.pack_sequence_as(inputs, values), training=False))

    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # functions that layers compile become part of the graph
    try:
        return convert_variables_to_constants_v2(serve.get_concrete_function())
    finally:
        tf.config.run_functions_eagerly(eagerly)


def _dataflow(frozen: Any, names: list[str], layers: list[str], ties: TieRules) -> Dataflow:
    """The graph of TensorFlow in the words of the core, what depends on no input computed."""
    to = TensorFlowTranslation(ties)
    known: dict[Any, Any] = {}
    inputs = []
    for tensor in frozen.inputs:
        inputs.append(Node("input", tensor.op.name, (), tuple(tensor.shape)))
        known[tensor.ref()] = inputs[-1]
    operations, constants = _apart(frozen, layers)
    known |= constants
    for operation in operations:
        to.name = _named(operation.name, layers)
        read = [known[tensor.ref()] for tensor in operation.inputs]
        for tensor, result in zip(operation.outputs, to.call(operation, read), strict=False):
            known[tensor.ref()] = result
    outputs = [(name, as_node(to, known[tensor.ref()])) for name, tensor in zip(names, frozen.outputs, strict=True)]
    return Dataflow(inputs, to.nodes, outputs, [tensor.dtype.name for tensor in frozen.inputs])


_LOOPS = {
    "Enter",
    "Exit",
    "If",
    "LoopCond",
    "Merge",
    "NextIteration",
    "StatelessIf",
    "StatelessWhile",
    "Switch",
    "While",
}


def _apart(frozen: Any, layers: list[str]) -> tuple[list[Any], dict[Any, np.ndarray]]:
    """The operations that depend on the inputs; and what they read that does not, computed at once."""
    dependent = {tensor.ref() for tensor in frozen.inputs}
    operations: list[Any] = []
    read: dict[Any, Any] = {}
    for operation in frozen.graph.get_operations():
        if operation.type in _LOOPS:
            raise no_definition(f"{operation.type} in a loop", _named(operation.name, layers))
        if any(tensor.ref() in dependent for tensor in operation.inputs):
            operations.append(operation)
            dependent |= {tensor.ref() for tensor in operation.outputs}
            read |= {tensor.ref(): tensor for tensor in operation.inputs if tensor.ref() not in dependent}
    read |= {tensor.ref(): tensor for tensor in frozen.outputs if tensor.ref() not in dependent}
    for tensor in read.values():
        if not tensor.dtype.is_numpy_compatible:
            raise no_definition(tensor.op.type, _named(tensor.op.name, layers))
    with tf.compat.v1.Session(graph=frozen.graph) as session:
        values = session.run(list(read.values()))
    return operations, dict(zip(read, values, strict=True))


_MARK = re.compile(r"layer\.(\d+)")


@contextmanager
def _marked(layers: Collection[Any]) -> Iterator[None]:
    """Operations of a graph say in whose call they are made: Keras 3 changes the names of layers there."""
    numbers = {id(layer): number for number, layer in enumerate(layers)}

    def marked(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def in_scope(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(f"layer.{numbers[id(layer)]}"):
                return call(*args, **kwargs)

        return in_scope

    with replaced_calls(layers, marked):
        yield


def _named(name: str, layers: Sequence[str]) -> str:
    """The name of the layer in that of an operation; outside all layers, that of the operation."""
    marks = _MARK.findall(name)
    return layers[int(marks[-1])] if marks else name.rpartition("/")[2]
