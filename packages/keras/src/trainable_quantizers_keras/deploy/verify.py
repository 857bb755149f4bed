"""The comparison of a deployed model with the trained one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core import Program, QuantizerError, Verification
from trainable_quantizers_core.deploy.verification import Comparison, result_of
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.tie_rules import TieRules

from trainable_quantizers_keras.calibration.batches import named_tensors, names_of_inputs, run_on
from trainable_quantizers_keras.deploy.convert import convert, quantized_inside
from trainable_quantizers_keras.deploy.integer import program_of
from trainable_quantizers_keras.deploy.lite_file import LiteFile
from trainable_quantizers_keras.graph.watch import named_layers, watching
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.holder import KerasActivationQuantizationHolder


def verify(trained: Any, deployed: Any | Callable[..., Any], data: Any) -> Verification:
    """Compare two models on batches of data in evaluation mode: their outputs, and those of their common layers.

    Args:
        trained: The model that was trained.
        deployed: The model that ``convert`` made of it, its integer program, a ``.tflite`` file (its path, or a
            ``LiteFile`` with the kernels to run it), or any function that takes the same inputs and gives tensors or
            arrays. Of a file, each operation is compared with the integer program on what the file gave it.
        data: Batches as for ``prepare``.

    Raises:
        QuantizerError: no data, a batch that a model does not take, or outputs of other shapes.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, convert, prepare
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> print(verify(model, convert(model), [x]))
        All 16 output values are identical.
    """
    if not isinstance(trained, keras.Model):
        raise invalid("verify", "trained", "a model", trained, "pass what prepare returned, trained")
    if isinstance(deployed, (str, os.PathLike)):
        deployed = LiteFile(deployed)
    if isinstance(deployed, LiteFile):
        return _compared_with_file(trained, deployed, data)
    if not callable(deployed):
        rule = "a model, a function or a .tflite file"
        raise invalid("verify", "deployed", rule, deployed, "pass what convert returned")
    found, inputs = compared(trained, deployed, data)
    if found.identical or (found.first_difference is not None and not isinstance(deployed, Program)):
        return found
    return replace(found, causes=_causes(trained, deployed, inputs))


def compared(trained: Any, deployed: Any, data: Any, layers: bool = True) -> tuple[Verification, Any]:
    """The same without the causes, and the inputs in the last batch."""
    comparison = Comparison()
    seen: list[dict[str, list[Any]]] = [{}, {}]
    run = partial(deployed, training=False) if isinstance(deployed, keras.Model) else deployed
    with ExitStack() as stack:
        if layers and isinstance(deployed, (keras.Model, Program)):
            for model, outputs in zip((trained, deployed), seen, strict=True):
                if isinstance(model, keras.Model):
                    stack.enter_context(_watched(model, outputs, alone=isinstance(deployed, Program)))
        for inputs, wanted in run_on(trained, data, "verify"):
            if isinstance(deployed, Program):
                given, seen[1] = result_of(deployed, deployed.observed, inputs)
            else:
                given = result_of(deployed, run, inputs)
            _compare(comparison, seen, wanted, given)
            for outputs in seen:
                outputs.clear()
    return comparison.result(), inputs


def _compared_with_file(trained: Any, file: LiteFile, data: Any) -> Verification:
    """Outputs of the model and the file; and each operation of the file with that of the integer program."""
    comparison = Comparison()
    program: Program | None = None
    for count, (inputs, wanted) in enumerate(run_on(trained, data, "verify")):
        named = dict(zip(names_of_inputs(trained, inputs), tf.nest.flatten(inputs), strict=True))
        given = result_of(file, file.run, named)
        program = program if count else _program(trained, inputs)
        seen: list[dict[str, list[Any]]] = [{}, {}]
        if program is not None:
            shown = file.observed(named, program)
            _, own = program.observed(inputs, given=shown)
            for name, arrays in shown.items():
                pairs = [pair for pair in zip(own[name], arrays, strict=True) if pair[1] is not None]
                seen[0][name], seen[1][name] = ([pair[side] for pair in pairs] for side in (0, 1))
        _compare(comparison, seen, wanted, given)
    return replace(comparison.result(), alone=True)


def _causes(trained: Any, deployed: Any, inputs: Any) -> tuple[str, ...]:
    """Possible causes of other outputs in the network, as far as its integer program shows them."""
    program = deployed if isinstance(deployed, Program) else _program(trained, inputs)
    return () if program is None else program.causes


def _program(trained: Any, inputs: Any) -> Program | None:
    """The integer program of a model, with the rules for ties that it was trained with; None if it has none."""
    layers = named_layers(trained).items()
    holders = {name: each for name, each in layers if isinstance(each, KerasActivationQuantizationHolder)}
    rules = {name: getattr(each.activation_holder_quantizer, "rounding", None) for name, each in holders.items()}
    ties = TieRules("verify", {name: rule for name, rule in rules.items() if rule is not None})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convert, which the user did not call
            converted = convert(trained) if quantized_inside(trained) else trained
        return program_of(converted, inputs, ties)
    except QuantizerError:
        return None


def _watched(model: Any, outputs: dict[str, list[Any]], alone: bool) -> Any:
    """Keep what layers give, or holders ``alone``: other steps of a program are no layers."""
    layers = named_layers(model)
    if alone:
        layers = {name: each for name, each in layers.items() if isinstance(each, KerasActivationQuantizationHolder)}
    names = {id(layer): name for name, layer in layers.items()}

    def see(layer: Any, result: Any) -> None:
        eager = [tensor for tensor in tf.nest.flatten(result) if hasattr(tensor, "numpy")]  # not what builds a model
        outputs.setdefault(names[id(layer)], []).extend(eager)

    return watching(layers.values(), see)


def _compare(comparison: Comparison, seen: list[dict[str, list[Any]]], wanted: Any, given: Any) -> None:
    trained, deployed = ({name: [*map(_array, each)] for name, each in outputs.items()} for outputs in seen)
    comparison.layers(trained, deployed)
    outputs = ([(name, _array(each)) for name, each in named_tensors(result, "output")] for result in (wanted, given))
    comparison.outputs(*outputs)


def _array(tensor: Any) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tf.cast(tensor, tf.float64).numpy()
