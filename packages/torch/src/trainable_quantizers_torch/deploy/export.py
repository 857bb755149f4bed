"""Exports a converted model to a file, and compares the file's results with the model's."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core import QuantizerError, RescaleRule, Verification
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.files import optional, write_atomically
from trainable_quantizers_core.integer.c_source import c_source
from trainable_quantizers_core.integer.compiled import compiled

from trainable_quantizers_torch.calibration.batches import arguments_of, in_words
from trainable_quantizers_torch.deploy.convert import check_converted
from trainable_quantizers_torch.deploy.export_operators import OPSET, with_plain_operations, with_standard_operators
from trainable_quantizers_torch.deploy.flat import FlatModel
from trainable_quantizers_torch.deploy.integer import to_integer
from trainable_quantizers_torch.deploy.verify import verify
from trainable_quantizers_torch.layers.copies import copied

OPERATORS = ("standard", "mct")
SIZES = ("free", "batch", "fixed")
Written = tuple[bytes, Callable[..., Any]]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    operators: str = "standard",
    sizes: str = "free",
) -> Verification:
    """Export a converted model to a file, atomically, and compare the results of the file with those of the model.

    ``.onnx`` with standard operators holds weights of up to 8 bits as integers, and QuantizeLinear and
    DequantizeLinear for activations; narrower ones have a Clip before. ``.pt2`` holds the program of
    ``torch.export``, of plain operations and quantized weights. ``.c`` holds the integer program of ``to_integer`` in
    C99, a function of one sample; the compiler of this machine builds it for the comparison.

    Args:
        model: A model from ``convert``.
        path: Ends in ``.onnx``, ``.pt2`` or ``.c``.
        example_inputs: A batch as for ``prepare``; the file is run on it.
        operators: For an ONNX file: ``"standard"``, or ``"mct"`` for the custom operators of mct-quantizers, which
            onnxruntime runs with ``mct_quantizers.get_ort_session_options()``.
        sizes: Input sizes that the file accepts: ``"free"`` for every size that the model leaves free, such as batch,
            height and width; ``"batch"`` for any size of the first axis; ``"fixed"`` for those of ``example_inputs``
            alone. With the operators of mct-quantizers, ``"free"`` is ``"batch"``.

    An ONNX file computes in float32, as its runtimes do, even if the model is in half or double precision. Its inputs
    are named like the arguments of the forward (``image``, ``batch.image``), its outputs like the keys of the result:
    ``boxes``, ``output_0`` in a tuple, ``output`` alone.

    Returns:
        The comparison of model and file on the example inputs.

    Raises:
        QuantizerError: the model holds trainable quantizers, another suffix, a quantizer that the operators cannot
            express, or a model that the exporter does not take.
        ImportError: packages that write and run ONNX are not installed; the message says how to install them.

    Examples:
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
            "export", "path", "that of an .onnx, .pt2 or .c file", str(path), "choose the format by the suffix"
        )
    if operators not in OPERATORS:
        raise invalid("export", "operators", "'standard' or 'mct'", operators, nearest(operators, OPERATORS))
    if sizes not in SIZES:
        rule = f"one of {', '.join(map(repr, SIZES))}"
        raise invalid("export", "sizes", rule, sizes, nearest(sizes, SIZES))
    if not isinstance(model, nn.Module):
        raise invalid("export", "model", "a converted model", model, "pass what convert returned")
    check_converted(model, "export")
    if sizes == "free" and (operators == "mct" or path.suffix == ".c"):
        sizes = "batch"
    try:
        data, found = _written_and_compared(model, writers[path.suffix], example_inputs, operators, sizes)
    except QuantizerError:
        if sizes != "free":
            raise
        data, found = _written_and_compared(model, writers[path.suffix], example_inputs, operators, "batch")
    write_atomically(path, data)
    return found


def _written_and_compared(
    model: nn.Module, write: Callable[..., Written], example_inputs: Any, operators: str, sizes: str
) -> tuple[bytes, Verification]:
    written = copied(model, "export").eval()
    positional, keywords = arguments_of(model, example_inputs if sizes == "fixed" else _several(example_inputs))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            data, run = write(written, positional, keywords, operators, sizes)
    except (QuantizerError, ImportError):
        raise
    except Exception as error:  # anything that an exporter raises
        cause = _first(error)
        shown = str(cause).strip().partition("\n")[0]
        advice = f"the exporter says: {type(cause).__name__}: {shown}; sizes='fixed' may help"
        rule = "one that can be exported with these inputs"
        raise invalid("export", "model", rule, in_words(example_inputs), advice) from error
    found = verify(model, run, [example_inputs])
    if sizes != "fixed":
        _check_other_size(model, run, example_inputs)
    return data, found


def _lengths(batch: Any) -> set[int]:
    return {leaf.shape[0] for leaf in _pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim}


def _twice(batch: Any) -> Any:
    """The batch twice, along the first axis."""
    return _pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf, batch)


def _several(batch: Any) -> Any:
    """The batch; a single example is doubled, because exporters take a size of 1 for a constant."""
    return _twice(batch) if _lengths(batch) == {1} else batch


def _check_other_size(model: nn.Module, run: Callable[..., Any], batch: Any) -> None:
    if len(_lengths(batch)) != 1 or any(torch.is_tensor(leaf) and not leaf.ndim for leaf in _pytree.tree_leaves(batch)):
        return  # there is no axis that all inputs count examples by
    try:
        verify(model, run, [_twice(batch)])
    except QuantizerError as error:
        advice = f"pass sizes='fixed', or other operators; {error}"
        rule = "one whose file takes other sizes of the first axis"
        raise invalid("export", "model", rule, type(model).__name__, advice) from error


def _first(error: BaseException) -> BaseException:
    """The original error that the exporters wrapped in their own."""
    return error if error.__cause__ is None else _first(error.__cause__)


def _program(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, sizes: str) -> Written:
    shapes = _shapes(args, kwargs, sizes)
    program = torch.export.export(with_plain_operations(model), args, dict(kwargs), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda *args, **kwargs: loaded(*args, **kwargs)


def _c(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, sizes: str) -> Written:
    program = to_integer(model, kwargs or args, rescale=RescaleRule.FIXED_POINT)
    return c_source(program).encode(), compiled(program)


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: str) -> Any:
    if sizes == "fixed":
        return None

    def axes(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.ndim:
            return None
        counted = range(value.ndim if sizes == "free" else 1)
        channels = 1 if value.ndim >= 4 else None  # exporters do not infer that channels are fixed
        return {axis: torch.export.Dim.AUTO for axis in counted if axis != channels}

    return _pytree.tree_map(axes, dict(kwargs) if kwargs else args)


def _onnx(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: str, sizes: str) -> Written:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional(module, "onnx", "trainable-quantizers-torch")
    model, (args, kwargs) = model.float(), _pytree.tree_map(_single, (args, dict(kwargs)))
    data = (_standard if operators == "standard" else _custom)(model, args, kwargs, sizes)
    return data, _session(data, operators)


def _single(value: Any) -> Any:
    """A floating tensor in float32; anything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _standard(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: str) -> bytes:
    flat = FlatModel(with_standard_operators(model), args, kwargs)
    program = torch.onnx.export(
        flat,
        flat.tensors,
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        dynamic_shapes=None if sizes == "fixed" else {"tensors": _shapes(flat.tensors, {}, sizes)},
        input_names=flat.inputs,
        output_names=flat.outputs,
    )
    assert program is not None  # no file was given
    return _with_named_sizes(program.model_proto).SerializeToString()


def _with_named_sizes(written: Any) -> Any:
    """An ONNX model with free sizes named ``batch`` and ``image_2`` instead of ``s95``."""
    graph = written.graph
    names: dict[str, str] = {}
    for each in graph.input:
        for axis, size in enumerate(each.type.tensor_type.shape.dim):
            if size.dim_param:
                names.setdefault(size.dim_param, f"{each.name}_{axis}" if axis else "batch")
    for each in (*graph.input, *graph.output, *graph.value_info):
        for size in each.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)
    return written


def _custom(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: str) -> bytes:
    optional("onnxruntime_extensions", "onnx", "trainable-quantizers-torch")
    flat = FlatModel(model, args, kwargs)
    for module in model.modules():
        for quantizer in _inferable(module):
            quantizer.enable_custom_impl()
    axes = None if sizes == "fixed" else {name: {0: "batch"} for name in flat.inputs}
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
        fed = dict(zip(names, (_single(tensor).detach().cpu().numpy() for tensor in tensors), strict=True))
        outputs = session.run(None, fed)
        return outputs if len(outputs) > 1 else outputs[0]

    return run
