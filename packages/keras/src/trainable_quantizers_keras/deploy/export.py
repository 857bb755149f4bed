"""A converted model in a file that a runtime executes, and whether it computes the same there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from mct_quantizers import BaseInferableQuantizer
from trainable_quantizers_core import QuantizerError, Verification
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled

from trainable_quantizers_keras.calibration.batches import in_words, inputs_of
from trainable_quantizers_keras.deploy.convert import quantized_inside
from trainable_quantizers_keras.deploy.integer import to_integer
from trainable_quantizers_keras.deploy.verify import verify
from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.calls import is_graph
from trainable_quantizers_keras.load_model import keras_load_quantized_model

_TFLITE_BITS = 8


def export(model: Any, path: str | os.PathLike[str], example_inputs: Any) -> Verification:
    """Write a converted model to a file, whole or not at all, and compare what the file computes with the model.

    ``.keras`` is loaded with ``keras_load_quantized_model``. A path without ending is the folder of a SavedModel, for
    TensorFlow Serving and every other runtime of TensorFlow. ``.tflite`` holds the quantizers as QUANTIZE and
    DEQUANTIZE of 8 bits, all that its runtime knows. ``.c`` holds the integer program of ``to_integer`` in C99, a
    function of one sample; the compiler of this machine builds it for the comparison.

    Args:
        model: What ``convert`` returned.
        path: Ends in ``.keras``, ``.tflite`` or ``.c``, or has no ending. An older file or SavedModel is replaced.
        example_inputs: A batch as for ``prepare``; the file is run on it, and takes other sizes of the first axis.

    Returns:
        What differs between model and file on the example inputs.

    Raises:
        QuantizerError: the model holds trainable quantizers, another ending, a folder of other things at the path,
            quantizers that the file would not compute, or a model that cannot be written.

    Example:
        >>> from trainable_quantizers_keras import Recipe, convert, prepare
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(export(convert(model), Path(folder) / "model.keras", x))
        All 16 output values are identical.
    """
    path = Path(path)
    writers = {".keras": _keras_file, "": _saved_model, ".tflite": _tflite, ".c": _c}
    if path.suffix not in writers:
        rule = "that of a .keras, .tflite or .c file, or a folder without ending"
        raise invalid("export", "path", rule, str(path), "choose the format by the ending")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        rule = "free, a file, or an older SavedModel"
        raise invalid("export", "path", rule, str(path), "a folder of other things is not replaced: name a new one")
    if not isinstance(model, keras.Model):
        raise invalid("export", "model", "a converted model", model, "pass what convert returned")
    if quantized_inside(model):
        raise invalid("export", "model", "converted", model.name, "pass convert(model)")
    if path.suffix == ".keras" and not is_graph(model):
        advice = "Keras rebuilds a subclassed model without its quantizers: write a SavedModel, a path without ending"
        raise invalid("export", "model", "Sequential or functional for a .keras file", model.name, advice)
    try:
        inputs = inputs_of(model, example_inputs)
        model(inputs, training=False)
    except Exception as error:  # whatever a layer raises
        advice = f"the model says: {type(error).__name__}: {error}"
        raise invalid(
            "export", "example_inputs", "a batch that the model takes", in_words(example_inputs), advice
        ) from error
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        try:
            run = writers[path.suffix](model, written, inputs)
        except QuantizerError:
            raise
        except Exception as error:  # whatever a converter raises
            advice = f"it says: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise invalid("export", "model", "one that TensorFlow can write", model.name, advice) from error
        found = verify(model, run, [example_inputs])
        if path.exists() and (path.is_dir() or written.is_dir()):  # into the folder that is thrown away
            os.replace(path, Path(folder) / f"{path.name}.before")
        os.replace(written, path)
    return found


def _keras_file(model: Any, path: Path, inputs: Any) -> Callable[..., Any]:
    model.save(path)
    loaded = keras_load_quantized_model(path, compile=False)
    return lambda x: loaded(x, training=False)


def _function(model: Any, inputs: Any) -> Any:
    """The model in evaluation as one function of its inputs, in the order in which they are flattened."""

    def free(value: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, *value.shape[1:]] if value.shape.rank else [], value.dtype)

    leaves = [free(value) for value in tf.nest.flatten(inputs)]

    @tf.function(input_signature=leaves)
    def serve(*values: tf.Tensor) -> Any:
        return model(tf.nest.pack_sequence_as(inputs, values), training=False)

    return serve


def _saved_model(model: Any, path: Path, inputs: Any) -> Callable[..., Any]:
    module = tf.Module()
    module.serve = _function(model, inputs)
    module.held = [variable.value if KERAS_3 else variable for variable in model.variables]
    tf.saved_model.save(module, str(path), signatures=_by_name(module.serve))
    loaded = tf.saved_model.load(str(path))
    return lambda x: loaded.serve(*tf.nest.flatten(x))


def _by_name(serve: Any) -> Any:
    """The function with a dictionary of results, as signatures have them."""

    @tf.function(input_signature=serve.input_signature)
    def signature(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {f"output_{index}": tensor for index, tensor in enumerate(tf.nest.flatten(serve(*values)))}

    return signature


def _tflite(model: Any, path: Path, inputs: Any) -> Callable[..., Any]:
    for layer in model._flatten_layers(include_self=False):
        for quantizer in _inferable(layer):
            bits = getattr(quantizer, "num_bits", None)
            if bits != _TFLITE_BITS:
                rule = f"of {_TFLITE_BITS} bits in a .tflite file"
                advice = "its runtime computes no others; write a .keras file or a SavedModel, or prepare with 8 bits"
                raise invalid("export", f"quantizer of {layer.name!r}", rule, bits, advice)
    folder = path.with_suffix("")  # the converter freezes the variables of a SavedModel alone in every TensorFlow
    _saved_model(model, folder, inputs)
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())
    interpreter = tf.lite.Interpreter(model_path=str(path))
    return lambda x: _interpret(interpreter, tf.nest.flatten(x))


def _c(model: Any, path: Path, inputs: Any) -> Callable[..., Any]:
    program = to_integer(model, inputs)
    path.write_text(c_source(program))
    return compiled(program)


def _interpret(interpreter: Any, values: list[tf.Tensor]) -> Any:
    run = interpreter.get_signature_runner("serving_default")
    names = sorted(run.get_input_details(), key=lambda name: (len(name), name))  # values, values_1, ..., values_10
    given = run(**{name: np.asarray(value) for name, value in zip(names, values, strict=True)})
    results = [given[f"output_{index}"] for index in range(len(given))]
    return results if len(results) > 1 else results[0]


def _inferable(layer: Any) -> list[BaseInferableQuantizer]:
    held = [*getattr(layer, "weights_quantizers", {}).values(), getattr(layer, "activation_holder_quantizer", None)]
    return [quantizer for quantizer in held if isinstance(quantizer, BaseInferableQuantizer)]
