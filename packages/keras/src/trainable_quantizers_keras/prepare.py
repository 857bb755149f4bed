"""From a float model to one whose weights and activations are quantized and learn their ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf
from trainable_quantizers_core import (
    LayerPlan,
    Recipe,
    Summary,
    SummaryRow,
    TensorStatistics,
    activation_parameters,
    weights_parameters,
)
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.placement import UNBOUNDED
from trainable_quantizers_core.graph.summary import scheme_in_words

from trainable_quantizers_keras.calibration.batches import in_order, run_on
from trainable_quantizers_keras.deploy.convert import quantized_inside
from trainable_quantizers_keras.graph.calls import input_layers, is_graph
from trainable_quantizers_keras.graph.copies import copied, input_shape_of
from trainable_quantizers_keras.graph.discover import Found, Place, discover, executions, place_of_part
from trainable_quantizers_keras.graph.fold import fold_batch_norm as fold
from trainable_quantizers_keras.graph.watch import watching
from trainable_quantizers_keras.inventory import HOLDER_SUFFIX
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.holder import (
    KerasActivationQuantizationHolder,
    KerasMaskedActivationQuantizationHolder,
)
from trainable_quantizers_keras.layers.quantized_layer import located, slot_of
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer

_SUMMARY = "_quantization_summary"
_NOT_FOLDED = "not folded: no convolution or dense layer goes into it alone"


def prepare(
    model: Any,
    recipe: Recipe,
    calibration_data: Any = None,
    *,
    fold_batch_norm: bool = False,
    verbose: bool = True,
) -> Any:
    """A copy of ``model`` that quantizes as ``recipe`` says, with ranges from data, ready to compile and train.

    Args:
        model: A built Sequential, functional or subclassed model; stays as it is.
        recipe: What is quantized, and how.
        calibration_data: Batches for the ranges of activations: arrays, tuples (of which as many items are used as
            the model has inputs), or dictionaries. A ``tf.data.Dataset`` is fine.
        fold_batch_norm: Fold batch norms into the layers before them first.
        verbose: Show a progress bar and print the summary.

    Raises:
        QuantizerError: no built model, no recipe, no data, a rule that matches nothing, nothing to quantize, or a
            layer that its configuration does not rebuild.

    Example:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, convert
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> prepared = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> bool((convert(prepared)(x) == prepared(x)).numpy().all())
        True
    """
    _check(model, recipe)
    folded: dict[str, str] = {}
    if fold_batch_norm:
        model, folded = fold(model)
    rows, quantizers, holders = _quantizers(model, recipe, calibration_data, verbose)
    prepared = copied(model, _wrapping(quantizers, holders), lambda call: holders.get(call.place))
    if fold_batch_norm:
        rows = [replace(row, reason=f"{row.reason}; {_NOT_FOLDED}") if "BatchNorm" in row.type else row for row in rows]
    rows += [SummaryRow(norm, "BatchNormalization", reason=f"folded into {layer}") for norm, layer in folded.items()]
    found = Summary(tuple(rows))
    vars(prepared)[_SUMMARY] = found
    if verbose:
        print(found)
    return prepared


def summary(model: Any) -> Summary:
    """What ``prepare`` did to each layer.

    Raises:
        QuantizerError: the model does not come from ``prepare``, or was loaded from a file.
    """
    found = find_summary(model)
    if found is None:
        advice = "prepare it first; a file does not keep the summary"
        raise invalid("summary", "model", "one that prepare made", type(model).__name__, advice)
    return found


def find_summary(model: Any) -> Summary | None:
    """The same, or None."""
    return vars(model).get(_SUMMARY)


def _check(model: Any, recipe: Any) -> None:
    if not isinstance(model, keras.Model):
        rule = f"a {keras.__name__.rpartition('.')[2]}.Model"
        raise invalid("prepare", "model", rule, model, "pass the network itself, made by the same Keras")
    if not isinstance(recipe, Recipe):
        advice = "load one with Recipe.from_file, or take one of Recipe.presets()"
        raise invalid("prepare", "recipe", "a Recipe", recipe, advice)
    if quantized_inside(model):
        raise invalid("prepare", "model", "one without quantizers", model.name, "pass the float model")
    if not model.built:
        advice = "call it on a batch first, or give it an Input"
        raise invalid("prepare", "model", "built", model.name, advice)


def _quantizers(
    model: Any, recipe: Recipe, data: Any, verbose: bool
) -> tuple[list[SummaryRow], dict[int, dict[str, Any]], dict[Place, Any]]:
    """What became of each layer; quantizers of weights by layer; holders by call."""
    found = discover(model, recipe)
    plans = recipe.plan([one.layer for one in found])
    seen = _calibrate(model, found, data, verbose) if any(plan.activations for plan in plans) else {}
    rows = []
    quantizers: dict[int, dict[str, Any]] = {}
    holders: dict[Place, Any] = {}
    for one, plan in zip(found, plans, strict=True):
        row, of_weights, holder = _settle(one, plan, seen.get(one.place))
        rows.append(row)
        if of_weights:
            quantizers[id(one.source)] = of_weights
        if holder is not None:
            holders[one.place] = holder
    return rows, quantizers, holders


class _Seen:
    """Statistics of a tensor, or why there are none."""

    def __init__(self) -> None:
        self.statistics = TensorStatistics()
        self.left_in_float = "calibration never reached it"

    def update(self, value: Any) -> None:
        if not isinstance(value, tf.Tensor) or not value.dtype.is_floating:
            self.left_in_float = "not a floating tensor"
        elif not hasattr(value, "numpy"):
            self.left_in_float = "it runs inside a tf.function"
        else:
            self.statistics.update(tf.cast(value, tf.float32).numpy())
            self.left_in_float = UNBOUNDED if self.statistics.unbounded else ""


def _calibrate(model: Any, found: Sequence[Found], data: Any, verbose: bool) -> dict[Place, _Seen]:
    """Statistics of the output of each call over all batches; calls beyond those of a run begin again."""
    seen = {one.place: _Seen() for one in found}
    places = executions(model)
    count: Counter[int] = Counter()

    def see(layer: Any, result: Any) -> None:
        run = places[id(layer)]
        place = run[count[id(layer)] % len(run)]
        count[id(layer)] += 1
        if place in seen:  # what goes into an inner model is quantized before
            seen[place].update(result)

    inputs = input_layers(model) if is_graph(model) else []  # a Sequential may have others once it ran
    layers = [one.source for one in found if not isinstance(one.source, keras.layers.InputLayer)]
    with watching(layers, see):
        for given, _ in run_on(model, data, "prepare", "calibration_data", verbose):
            for layer, value in zip(inputs, in_order(model, given) if inputs else (), strict=True):
                see(layer, value)
    return seen


def _settle(one: Found, plan: LayerPlan, seen: _Seen | None) -> tuple[SummaryRow, dict[str, Any], Any]:
    """What becomes of a layer: its row, quantizers by path of the weight, and a holder for its output."""
    weights = activations = ""
    reasons = [plan.reason if one.layer.weights or one.layer.activation else "", one.why]
    findings: list[str] = []
    quantizers: dict[str, Any] = {}
    holder = None
    if plan.weights is not None:
        for path, axis in one.weights.items():
            slots, slot = located(one.source, slot_of(one.source, path))
            calibrated = weights_parameters(slots[slot].numpy(), plan.weights, axis)
            findings += calibrated.findings
            config = plan.weights.config(calibrated.params, axis)
            quantizers[path] = plan.weights.quantizer(config, BaseKerasTrainableQuantizer)
        weights = scheme_in_words(plan.weights) if quantizers else ""
    if plan.activations is not None and seen is not None:
        if seen.left_in_float:
            reasons.append(f"output: {seen.left_in_float}")
        else:
            measured = activation_parameters(seen.statistics, plan.activations)
            findings += measured.findings
            for_output = plan.activations.config(measured.params)
            quantizer = plan.activations.quantizer(for_output, BaseKerasTrainableQuantizer)
            kind = KerasMaskedActivationQuantizationHolder if one.masked else KerasActivationQuantizationHolder
            holder = kind(quantizer, name=_holder_name(one), dtype="float32")
            activations = scheme_in_words(plan.activations)
    reason = "; ".join(filter(None, reasons)) or "nothing to quantize"
    row = SummaryRow(one.layer.name, one.layer.types[-1], weights, activations, reason, tuple(findings))
    return row, quantizers, holder


def _holder_name(one: Found) -> str:
    _, _, index = one.place
    return one.source.name + HOLDER_SUFFIX + (f"_{index}" if index else "")


def _named(layer: Any, name: str) -> dict[str, Any]:
    """A name, and the precision of a layer."""
    policy = getattr(layer, "dtype_policy", None)
    return {"name": name} if policy is None else {"name": name, "dtype": policy}


def _wrapping(quantizers: Mapping[int, dict[str, Any]], holders: Mapping[Place, Any]) -> Callable[[Any, bool], Any]:
    """What stands for a layer in the copy: its wrapper, and outside graphs with its holder in one."""

    def replace(layer: Any, in_graph: bool) -> Any:
        replacement = layer
        if id(layer) in quantizers:
            replacement = KerasTrainableQuantizationWrapper(
                copied(layer), quantizers[id(layer)], **_named(layer, layer.name), trainable=layer.trainable
            )
        if in_graph:
            return replacement
        if replacement is not layer:
            replacement.build(input_shape_of(layer))  # a graph does it by its calls
        holder = holders.get(place_of_part(layer))
        if holder is None:
            return replacement
        holder.build(None)
        inner = copied(layer) if replacement is layer else replacement
        return KerasQuantizedOutput(inner, holder, **_named(layer, layer.name))

    return replace
