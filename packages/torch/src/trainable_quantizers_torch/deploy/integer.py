"""A converted model as an integer program."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.enums import RescaleRule, RoundingRule
from trainable_quantizers_core.errors import QuantizerError, invalid, member
from trainable_quantizers_core.integer.dataflow import Dataflow, Node, as_node, no_definition
from trainable_quantizers_core.integer.lower import lower
from trainable_quantizers_core.integer.program import Program
from trainable_quantizers_core.integer.tie_rules import Rounding, TieRules

from trainable_quantizers_torch.calibration.batches import arguments_of, in_words
from trainable_quantizers_torch.deploy.convert import check_converted
from trainable_quantizers_torch.deploy.export_operators import with_fake_quantization
from trainable_quantizers_torch.deploy.flat import FlatModel
from trainable_quantizers_torch.deploy.translation import AtenTranslation
from trainable_quantizers_torch.graph.runtime import QUANTIZERS
from trainable_quantizers_torch.layers.copies import copied


def to_integer(
    model: nn.Module,
    example_inputs: Any,
    rounding: Rounding = RoundingRule.HALF_EVEN,
    rescale: RescaleRule | str = RescaleRule.FLOAT32,
) -> Program:
    """Turn a converted model into a program of integer operations that numpy runs.

    The model is exported by ``torch.export`` for one sample. Weights and biases become integers, quantizers become
    shifts (products where steps are no powers of two), and functions of one value become tables; see docs/integer.md.

    Args:
        model: A model from ``convert``.
        example_inputs: A batch as for ``prepare``; samples are counted along the first axis.
        rounding: How quantizers round ties: pass the rule of the recipe if it names one; the default is the rule of the
            framework. Or rules by name patterns, of which the first that matches counts: ``{"add*": "half_up"}``.
        rescale: How quantizers whose steps are no powers of two rescale: ``float32``, or ``fixed_point`` for a program
            of integers alone, which a C file needs. With power-of-two ranges nothing is rescaled.

    Raises:
        QuantizerError: no such rule, or a pattern that matches no name; the model is in half precision, or holds
            trainable quantizers or operations that a program does not know; or ``torch.export`` does not take it.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, convert, prepare, verify
        >>> x = torch.randn(8, 4)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> deployed = convert(prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False))
        >>> program = to_integer(deployed, x)
        >>> program.float_operations
        []
        >>> print(verify(deployed, program, [x]))
        All 16 output values are identical.
    """
    if not isinstance(model, nn.Module):
        raise invalid("to_integer", "model", "a converted model", model, "pass what convert returned")
    check_converted(model, "to_integer")
    ties = TieRules("to_integer", rounding)
    rescale = member("to_integer", "rescale", RescaleRule, rescale)
    program = program_of(model, *arguments_of(model, example_inputs), ties, rescale)
    ties.check_used()
    return program


def program_of(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ties: TieRules,
    rescale: RescaleRule = RescaleRule.FLOAT32,
) -> Program:
    """The program of a converted model from arguments of its forward.

    Raises:
        QuantizerError: as of ``to_integer``.
    """
    args, kwargs = _pytree.tree_map(_first, (args, dict(kwargs)))
    tensors = [*model.parameters(), *model.buffers(), *_pytree.tree_leaves((args, kwargs))]
    half = {each.dtype for each in tensors if isinstance(each, torch.Tensor)} & {torch.float16, torch.bfloat16}
    if half:
        advice = "pass model.float() and inputs of float32: half precision rounds sums"
        raise invalid("to_integer", "model", "in float32", ", ".join(map(str, half)), advice)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            written = with_fake_quantization(copied(model, "to_integer").eval())
            flat = FlatModel(written, args, kwargs)
            exported = torch.export.export(flat, flat.tensors).run_decompositions({})
    except QuantizerError:
        raise
    except Exception as error:  # anything that the exporter raises
        advice = f"torch.export says: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        rule = "one that can be exported with these inputs"
        raise invalid("to_integer", "model", rule, in_words(kwargs or args), advice) from error
    with torch.no_grad():
        return lower(_dataflow(exported, flat.outputs, (args, kwargs), ties), rescale)


def _first(leaf: Any) -> Any:
    return leaf[:1] if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf


def _dataflow(exported: Any, names: list[str], given: Any, ties: TieRules) -> Dataflow:
    """The graph of the exporter in the words of the core, what depends on no input computed."""
    to = AtenTranslation(ties)
    known: dict[Any, Any] = {}

    def read(each: Any) -> Any:
        return known[each] if isinstance(each, torch.fx.Node) else each

    inputs: dict[str, Node] = {}
    dtypes: dict[str, str] = {}
    constants = {**exported.state_dict, **exported.constants}
    signature = exported.graph_signature
    held = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    for node in exported.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed(stack.values()))[0] if stack else ""
        to.name = operation_of(path.removeprefix("model").removeprefix(".")) or node.name
        value = node.meta.get("val")
        if node.op == "placeholder":
            if node.name in held:
                known[node] = constants[held[node.name]].detach().cpu()
            elif isinstance(value, torch.Tensor):
                inputs[node.name] = known[node] = Node("input", node.name, (), tuple(value.shape))
                dtypes[node.name] = str(value.dtype).removeprefix("torch.")
            else:
                known[node] = value
        elif node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(exported.graph_module)
        elif node.op == "call_function":
            args, kwargs = _pytree.tree_map(read, (tuple(node.args), dict(node.kwargs)))
            if _loses(node) and isinstance(args[0], Node):
                raise no_definition(f"a cast to {value.dtype}", to.name)
            shapes = [tuple(leaf.shape) for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
            known[node] = to.call(node.target, args, kwargs, shapes)
        else:
            (results,) = node.args
            leaves = [read(each) for each in results]
    outputs = [as_node(to, leaf) for leaf in leaves if isinstance(leaf, (Node, torch.Tensor))]
    ordered = _in_order_of_keys(inputs, given)
    return Dataflow(
        [inputs[name] for name in ordered],
        to.nodes,
        list(zip(names, outputs, strict=True)),
        [dtypes[name] for name in ordered],
    )


def _loses(node: Any) -> bool:
    """Whether an operator casts floats to integers, or to floats of fewer bits."""
    if node.target not in (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default):
        return False
    before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype
    return before.is_floating_point and (not after.is_floating_point or after.itemsize < before.itemsize)


def operation_of(path: str) -> str:
    """The name of a layer or function, from the path of the module that replaces it, or of its quantizer."""
    outer, found, word = path.rpartition(f"{QUANTIZERS}.")
    return (
        ".".join(filter(None, (outer.rstrip("."), word if word != "output" else "")))
        if found
        else path.removesuffix(".layer")
    )


def _in_order_of_keys(inputs: dict[str, Node], given: Any) -> list[str]:
    """The names of the inputs, reordered from the order of the arguments to that of the program."""
    paths = [path for path, leaf in _pytree.tree_flatten_with_path(given)[0] if isinstance(leaf, torch.Tensor)]
    named = list(zip(paths, inputs, strict=True))
    return [name for _, name in sorted(named, key=lambda pair: [_sortable(key) for key in pair[0]])]


def _sortable(key: Any) -> tuple[int, Any]:
    return (1, key.key) if hasattr(key, "key") else (0, getattr(key, "idx", 0))
