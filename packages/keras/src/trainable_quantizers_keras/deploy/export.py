"""Exports a converted model to a file, and compares the file's results with the model's."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from trainable_quantizers_core import QuantizerError, RescaleRule, Verification
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.files import put_in_place
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled

from trainable_quantizers_keras.calibration.batches import in_words, inputs_of, names_of_inputs
from trainable_quantizers_keras.deploy.convert import quantized_inside
from trainable_quantizers_keras.deploy.integer import to_integer
from trainable_quantizers_keras.deploy.lite import float_operations, lite_model
from trainable_quantizers_keras.deploy.lite_file import LiteFile, scoped
from trainable_quantizers_keras.deploy.verify import verify
from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.calls import is_graph
from trainable_quantizers_keras.load_model import keras_load_quantized_model

SIZES = ("free", "batch", "fixed")


def export(model: Any, path: str | os.PathLike[str], example_inputs: Any, *, sizes: str = "free") -> Verification:
    """Export a converted model to a file, atomically, and compare the results of the file with those of the model.

    ``.keras`` is loaded with ``keras_load_quantized_model``. A path without suffix is the folder of a SavedModel, for
    TensorFlow Serving and every other runtime of TensorFlow. ``.tflite`` holds weights of 8 bits and activations of 8
    bits, or of 16 where any has more than 8; ``verify`` compares it operation by operation. ``.c`` holds the integer
    program of ``to_integer`` in C99, a function of one sample; the compiler of this machine builds it for the
    comparison.

    Args:
        model: A model from ``convert``.
        path: Ends in ``.keras``, ``.tflite`` or ``.c``, or has no suffix. An older file or SavedModel is replaced.
        example_inputs: A batch as for ``prepare``; the file is run on it.
        sizes: Input sizes that a SavedModel or ``.tflite`` file accepts: ``"free"`` for every size that the inputs of
            the model leave free; ``"batch"`` for any size of the first axis; ``"fixed"`` for those of
            ``example_inputs`` alone, which recurrent layers need to reach ``.tflite``.

    Inputs and outputs of a SavedModel and of a ``.tflite`` file are named like those of a model of dictionaries, and
    inputs of others like their tensors; outputs of others are ``output_0``, ``output_1``, ...

    Returns:
        The comparison of model and file on the example inputs.

    Raises:
        QuantizerError: the model holds trainable quantizers, another suffix, a folder of other things at the path,
            quantizers that the file would not compute, or a model that cannot be written.

    Examples:
        >>> from trainable_quantizers_keras import Recipe, convert, prepare
        >>> x = tf.random.normal((8, 4)).numpy()
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(export(convert(model), Path(folder) / "model.keras", x))
        All 16 output values are identical.
    """
    path = Path(path)
    writers = {".keras": _keras_file, "": _saved_model, ".tflite": _tflite, ".c": _c}
    if path.suffix not in writers:
        rule = "that of a .keras, .tflite or .c file, or a folder without suffix"
        raise invalid("export", "path", rule, str(path), "choose the format by the suffix")
    if sizes not in SIZES:
        rule = f"one of {', '.join(map(repr, SIZES))}"
        raise invalid("export", "sizes", rule, sizes, nearest(sizes, SIZES))
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        rule = "free, a file, or an older SavedModel"
        raise invalid("export", "path", rule, str(path), "a folder of other things is not replaced: name a new one")
    if not isinstance(model, keras.Model):
        raise invalid("export", "model", "a converted model", model, "pass what convert returned")
    if quantized_inside(model):
        raise invalid("export", "model", "converted", model.name, "pass convert(model)")
    if path.suffix == ".keras" and not is_graph(model):
        advice = "Keras rebuilds a subclassed model without its quantizers: write a SavedModel, a path without suffix"
        raise invalid("export", "model", "Sequential or functional for a .keras file", model.name, advice)
    try:
        inputs = inputs_of(model, example_inputs)
        model(inputs, training=False)
    except Exception as error:  # anything that a layer raises
        advice = f"the model says: {type(error).__name__}: {error}"
        raise invalid(
            "export", "example_inputs", "a batch that the model takes", in_words(example_inputs), advice
        ) from error
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        try:
            run = writers[path.suffix](model, written, inputs, sizes)
        except QuantizerError:
            raise
        except Exception as error:  # anything that a converter raises
            advice = f"it says: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise invalid("export", "model", "one that TensorFlow can write", model.name, advice) from error
        found = verify(model, run, [example_inputs])
        put_in_place(written, path)
    return found


def _keras_file(model: Any, path: Path, inputs: Any, sizes: str) -> Callable[..., Any]:
    model.save(path)
    loaded = keras_load_quantized_model(path, compile=False)
    return lambda x: loaded(x, training=False)


def _function(model: Any, inputs: Any, sizes: str) -> Any:
    """The model in evaluation as one function of its inputs, in the order in which they are flattened."""
    names = names_of_inputs(model, inputs)
    symbols = tf.nest.flatten(getattr(model, "inputs", None) or [])
    leaves = tf.nest.flatten(inputs)
    known = [tuple(symbol.shape) for symbol in symbols] if len(symbols) == len(leaves) else [None] * len(leaves)

    def spec(value: tf.Tensor, shape: Any, name: str) -> tf.TensorSpec:
        given = list(value.shape)
        if sizes != "fixed" and given and shape is None:
            given[0] = None
        elif sizes != "fixed" and given:
            given = list(shape) if sizes == "free" else [shape[0], *given[1:]]
        return tf.TensorSpec(given, value.dtype, name)

    @tf.function(input_signature=[spec(*each) for each in zip(leaves, known, names, strict=True)])
    def serve(*values: tf.Tensor) -> Any:
        return model(tf.nest.pack_sequence_as(inputs, values), training=False)

    return serve


def _saved_model(model: Any, path: Path, inputs: Any, sizes: str) -> Callable[..., Any]:
    module = tf.Module()
    module.serve = _function(model, inputs, sizes)
    module.held = [variable.value if KERAS_3 else variable for variable in model.variables]
    tf.saved_model.save(module, str(path), signatures=_by_name(module.serve))
    loaded = tf.saved_model.load(str(path))
    return lambda x: loaded.serve(*tf.nest.flatten(x))


def _by_name(serve: Any) -> Any:
    """The function with a dictionary of results, as signatures have them."""

    @tf.function(input_signature=serve.input_signature)
    def signature(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        results = serve(*values)
        if isinstance(results, dict) and not any(map(tf.nest.is_nested, results.values())):
            return results
        return {f"output_{index}": tensor for index, tensor in enumerate(tf.nest.flatten(results))}

    return signature


def _tflite(model: Any, path: Path, inputs: Any, sizes: str) -> Callable[..., Any]:
    with scoped(model):
        signature = _by_name(_function(model, inputs, sizes)).get_concrete_function()
    data, rounded = lite_model(signature, path.with_suffix(""))
    if rounded:
        told = f"weights in float or in look-up tables to 8 bits: {', '.join(rounded)}"
        advice = "give them a range of at most 8 bits, or leave the activations that they multiply in float"
        warnings.warn(f"export: the .tflite file rounds {told}; {advice}.", stacklevel=3)
    left = float_operations(data)
    if left:
        text = f"export: the .tflite file computes in float32: {', '.join(left)}"
        warnings.warn(f"{text}; an integer accelerator leaves these to its host.", stacklevel=3)
    path.write_bytes(data)
    file, names = LiteFile(path), names_of_inputs(model, inputs)
    return lambda x: file.run(dict(zip(names, tf.nest.flatten(x), strict=True)))


def _c(model: Any, path: Path, inputs: Any, sizes: str) -> Callable[..., Any]:
    program = to_integer(model, inputs, rescale=RescaleRule.FIXED_POINT)
    path.write_text(c_source(program))
    return compiled(program)
