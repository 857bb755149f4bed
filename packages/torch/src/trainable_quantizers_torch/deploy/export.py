"""A converted model in a file that a runtime executes, and whether it computes the same there."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core import QuantizerError, Verification
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.files import optional, write_atomically
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled

from trainable_quantizers_torch.calibration.batches import arguments_of, in_words
from trainable_quantizers_torch.deploy.convert import quantizers_in
from trainable_quantizers_torch.deploy.export_operators import OPSET, with_plain_operations, with_standard_operators
from trainable_quantizers_torch.deploy.flat import FlatModel
from trainable_quantizers_torch.deploy.integer import to_integer
from trainable_quantizers_torch.deploy.verify import verify
from trainable_quantizers_torch.layers.copies import copied

OPERATORS = ("standard", "mct")


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    operators: str = "standard",
    dynamic_batch: bool = True,
) -> Verification:
    """Write a converted model to a file, whole or not at all, and compare what the file computes with the model.

    ``.onnx`` with standard operators holds weights of up to 8 bits as integers, and QuantizeLinear and
    DequantizeLinear for activations; narrower ones have a Clip before. ``.pt2`` holds the program of
    ``torch.export``, of plain operations and quantized weights. ``.c`` holds the integer program of ``to_integer`` in
    C99, a function of one sample; the compiler of this machine builds it for the comparison.

    Args:
        model: What ``convert`` returned.
        path: Ends in ``.onnx``, ``.pt2`` or ``.c``.
        example_inputs: A batch as for ``prepare``; the file is run on it.
        operators: Of an ONNX file: ``"standard"``, or ``"mct"`` for the custom operators of mct-quantizers, which
            onnxruntime runs with ``mct_quantizers.get_ort_session_options()``.
        dynamic_batch: Whether the file takes other sizes of the first axis of the inputs, too.

    Inputs of an ONNX file are named like the arguments of the forward (``image``, ``batch.image``), outputs like the
    keys of the result: ``boxes``, ``output_0`` in a tuple, ``output`` alone.

    Returns:
        What differs between model and file on the example inputs.

    Raises:
        QuantizerError: the model holds trainable quantizers, another ending, a quantizer that the operators cannot
            express, or a model that the exporter does not take.
        ImportError: what writes and runs ONNX is not installed; the message says how to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from trainable_quantizers_torch import Recipe, convert, prepare
        >>> x = torch.randn(8, 4)
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> with TemporaryDirectory() as folder:
        ...     print(export(convert(model), Path(folder) / "model.pt2", x))
        All 16 output values are identical.
    """
    path = Path(path)
    writers = {".onnx": _onnx, ".pt2": _program, ".c": _c}
    if path.suffix not in writers:
        raise invalid(
            "export", "path", "that of an .onnx, .pt2 or .c file", str(path), "choose the format by the ending"
        )
    if operators not in OPERATORS:
        raise invalid("export", "operators", "'standard' or 'mct'", operators, nearest(operators, OPERATORS))
    if not isinstance(model, nn.Module):
        raise invalid("export", "model", "a converted model", model, "pass what convert returned")
    if any(quantizers_in(module) for module in model.modules()):
        raise invalid("export", "model", "converted", type(model).__name__, "pass convert(model)")
    written = copied(model, "export").eval()
    positional, keywords = arguments_of(model, _several(example_inputs) if dynamic_batch else example_inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            data, run = writers[path.suffix](written, positional, keywords, operators, dynamic_batch)
    except (QuantizerError, ImportError):
        raise
    except Exception as error:  # whatever an exporter raises
        cause = _first(error)
        shown = str(cause).strip().partition("\n")[0]
        advice = f"the exporter says: {type(cause).__name__}: {shown}; dynamic_batch=False may help"
        rule = "one that can be exported with these inputs"
        raise invalid("export", "model", rule, in_words(example_inputs), advice) from error
    found = verify(model, run, [example_inputs])
    if dynamic_batch:
        _check_other_size(model, run, example_inputs)
    write_atomically(path, data)
    return found


def _lengths(batch: Any) -> set[int]:
    return {leaf.shape[0] for leaf in _pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim}


def _twice(batch: Any) -> Any:
    """The batch, and once more the batch, along the first axis."""
    return _pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf, batch)


def _several(batch: Any) -> Any:
    """The batch; one of a single example twice, for exporters take a size of 1 for a constant."""
    return _twice(batch) if _lengths(batch) == {1} else batch


def _check_other_size(model: nn.Module, run: Callable[..., Any], batch: Any) -> None:
    if len(_lengths(batch)) != 1 or any(torch.is_tensor(leaf) and not leaf.ndim for leaf in _pytree.tree_leaves(batch)):
        return  # there is no axis that all inputs count examples by
    try:
        verify(model, run, [_twice(batch)])
    except QuantizerError as error:
        advice = f"pass dynamic_batch=False, or other operators; {error}"
        rule = "one whose file takes other sizes of the first axis"
        raise invalid("export", "model", rule, type(model).__name__, advice) from error


def _first(error: BaseException) -> BaseException:
    """What the exporters wrapped in errors of their own."""
    return error if error.__cause__ is None else _first(error.__cause__)


Written = tuple[bytes, Callable[..., Any]]


def _program(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, dynamic_batch: bool
) -> Written:
    shapes = _shapes(args, kwargs, dynamic_batch)
    program = torch.export.export(with_plain_operations(model), args, dict(kwargs), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda *args, **kwargs: loaded(*args, **kwargs)


def _c(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, dynamic_batch: bool
) -> Written:
    program = to_integer(model, kwargs or args)
    return c_source(program).encode(), compiled(program)


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_batch: bool) -> Any:
    if not dynamic_batch:
        return None

    def first_axis(value: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.ndim else None

    return _pytree.tree_map(first_axis, dict(kwargs) if kwargs else args)


def _onnx(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, dynamic_batch: bool
) -> Written:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional(module, "onnx", "trainable-quantizers-torch")
    data = (_standard if operators == "standard" else _custom)(model, args, kwargs, dynamic_batch)
    return data, _session(data, operators)


def _standard(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_batch: bool) -> bytes:
    flat = FlatModel(with_standard_operators(model), args, kwargs)
    program = torch.onnx.export(
        flat,
        flat.tensors,
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        dynamic_shapes={"tensors": _shapes(flat.tensors, {}, dynamic_batch)} if dynamic_batch else None,
        input_names=flat.inputs,
        output_names=flat.outputs,
    )
    assert program is not None  # no file was given
    return program.model_proto.SerializeToString()


def _custom(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_batch: bool) -> bytes:
    optional("onnxruntime_extensions", "onnx", "trainable-quantizers-torch")
    flat = FlatModel(model, args, kwargs)
    for module in model.modules():
        for quantizer in _inferable(module):
            quantizer.enable_custom_impl()
    axes = {name: {0: "batch"} for name in flat.inputs} if dynamic_batch else None
    file = io.BytesIO()
    names = {"input_names": flat.inputs, "output_names": flat.outputs}
    torch.onnx.export(flat, flat.tensors, file, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
    return file.getvalue()


def _inferable(module: nn.Module) -> list[BasePyTorchInferableQuantizer]:
    if isinstance(module, PytorchQuantizationWrapper):
        return list(module.weights_quantizers.values())
    return [module.activation_holder_quantizer] if isinstance(module, PytorchActivationQuantizationHolder) else []


def _session(data: bytes, operators: str) -> Callable[..., Any]:
    """The file in onnxruntime, as a function of the model's arguments."""
    runtime = optional("onnxruntime", "onnx", "trainable-quantizers-torch")
    options = runtime.SessionOptions()
    if operators == "mct":
        from mct_quantizers import get_ort_session_options

        options = get_ort_session_options()
    options.log_severity_level = 3
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fed = dict(zip(names, (tensor.detach().cpu().numpy() for tensor in tensors), strict=True))
        outputs = session.run(None, fed)
        return outputs if len(outputs) > 1 else outputs[0]

    return run
