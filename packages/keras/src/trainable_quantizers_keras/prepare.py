"""Turns a float model into one that quantizes its weights and activations and learns their ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core import Recipe, Summary
from trainable_quantizers_core.calibration.batches import MAX_BATCHES
from trainable_quantizers_core.calibration.bias_correction import BATCHES
from trainable_quantizers_core.calibration.observation import Observation
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.folding import AT_CONVERSION, check_folding
from trainable_quantizers_core.graph.operation import Weight
from trainable_quantizers_core.graph.settle import Settled, settle
from trainable_quantizers_core.inventory import accumulator_bits

from trainable_quantizers_keras.calibration.batches import example_of, first_batches, in_order, run_on
from trainable_quantizers_keras.calibration.bias_correction import correct_biases
from trainable_quantizers_keras.deploy.convert import needs_package, quantizes, refuse_configuration
from trainable_quantizers_keras.deploy.self_check import check_prepared
from trainable_quantizers_keras.graph.apply import Placed
from trainable_quantizers_keras.graph.equalize import equalize_layers
from trainable_quantizers_keras.graph.exchanged import check_held, hold
from trainable_quantizers_keras.graph.fold import fold_batch_norm as fold
from trainable_quantizers_keras.graph.open import opened
from trainable_quantizers_keras.graph.record import RecordedModel, executions, record
from trainable_quantizers_keras.graph.watch import watching
from trainable_quantizers_keras.inventory import quantizers_by_place, quantizers_of, watched_sums
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import input_layers, is_graph
from trainable_quantizers_keras.layers.slots import located, slot_of
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer

_SUMMARY = "_quantization_summary"
_PACKAGE = "trainable-quantizers-keras"


def prepare(
    model: Any,
    recipe: Recipe,
    calibration_data: Any = None,
    *,
    fold_batch_norm: bool | str = False,
    equalize: bool = False,
    check: bool = True,
    verbose: bool = True,
) -> Any:
    """A copy of ``model`` that quantizes as ``recipe`` says, with ranges from data, ready to compile and train.

    Args:
        model: A built Sequential, functional or subclassed model; stays as it is.
        recipe: States what is quantized, and how.
        calibration_data: Batches for the ranges of activations: arrays, tuples (of which as many items are used as
            the model has inputs), or dictionaries. A ``tf.data.Dataset`` is fine.
        fold_batch_norm: Fold batch norms into the layers before them first; ``"at_conversion"`` lets them normalize
            while the model trains, and quantizes the weights that ``convert`` folds them into.
        equalize: Scale channels from one layer into the next, by powers of two, so that the ranges of their weights are
            alike.
        check: Compare the copy, with its quantizers bypassed, to the model on the first batch, if there is one.
        verbose: Show a progress bar and print the summary.

    Raises:
        QuantizerError: no built model, no recipe, no data, another word for ``fold_batch_norm``, or the one that
            ``equalize`` does not go with, a rule that matches nothing, nothing to quantize, a layer that its
            configuration does not rebuild, or a copy that computes something other than the model.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, convert
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        >>> x = np.random.randn(16, 4).astype("float32")
        >>> prepared = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> bool((convert(prepared)(x) == prepared(x)).numpy().all())
        True
    """
    _check(model, recipe)
    check_folding(fold_batch_norm, equalize)
    first: list[Any] = []
    if calibration_data is not None:
        first, calibration_data = first_batches(calibration_data, BATCHES, "prepare", "calibration_data")
    example = example_of(model, first)
    graph = opened(model, example)
    folded: dict[str, str] = {}
    apart: dict[int, tuple[Any, Any]] = {}
    given, model, notes = model, graph.model, graph.notes
    if fold_batch_norm:
        without = fold(model, notes)
        model, folded, notes = without.model, without.norms, without.notes
        apart = without.apart if fold_batch_norm == AT_CONVERSION else {}
    equalized: dict[str, str] = {}
    if equalize:
        model, equalized, notes = equalize_layers(model, notes)
    recorded = record(model, notes)
    settled, found = _settled(model, recorded, recipe, calibration_data, verbose)
    placed = Placed(model, recorded, settled, apart)
    copies: dict[int, Any] = {}
    prepared = placed.apply(copies)
    for place, quantizer in quantizers_by_place(prepared).items():
        quantizer.place = place
    if check and first:
        check_prepared(given, prepared, first[0], set(folded.values()))
    if placed.corrected:
        wrapped = [each for each in prepared._flatten_layers() if isinstance(each, KerasTrainableQuantizationWrapper)]
        norms = {id(each.layer): each.norm for each in wrapped}
        pairs = [(layer, _inner(copies[id(layer)])) for layer in placed.corrected]
        layers = [(layer, copy, norms.get(id(copy))) for layer, copy in pairs]
        correct_biases(model, prepared, layers, first or calibration_data)
    if fold_batch_norm:
        found = found.with_norms(folded, bool(apart))
    refuse_configuration(prepared)
    found = found.with_equalized(equalized)
    vars(prepared)[_SUMMARY] = replace(found, runtime=_PACKAGE if needs_package(prepared) else "")
    hold(prepared)
    if verbose:
        print(summary(prepared))
    return prepared


def summary(model: Any, data: Any = None) -> Summary:
    """What ``prepare`` did to each layer, and the accumulator bits that it needs now.

    Args:
        model: A model from ``prepare``.
        data: Batches as for ``prepare``, to show the accumulator bits that they need beside those of the worst case.

    Raises:
        QuantizerError: the model does not come from ``prepare``, was loaded from a file, holds a layer with weights
            that was put in later, or does not take the data.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe
        >>> layer = keras.layers.Dense(2, "relu", use_bias=False, kernel_initializer="ones", name="head")
        >>> network, x = keras.Sequential([keras.Input((4,), name="x"), layer]), np.arange(8.0).reshape(2, 4)
        >>> model = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> for row in summary(model, [x]).rows:
        ...     print(f"{row.layer}: {row.reason}")
        x: default
        head: default; sums of up to 17 bits, 17 seen
    """
    found = find_summary(model)
    if found is None:
        advice = "prepare it first; a file does not keep the summary"
        raise invalid("summary", "model", "one that prepare made", type(model).__name__, advice)
    check_held(model, "summary")
    placed = quantizers_of(model)
    with watched_sums(placed if data is not None else ()) as seen:
        for _ in run_on(model, data, "summary") if data is not None else ():
            pass
    return found.with_accumulators(accumulator_bits(placed), seen)


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
    if any(map(quantizes, model._flatten_layers())):
        raise invalid("prepare", "model", "one without quantizers", model.name, "pass the float model")
    if not model.built:
        advice = "call it on a batch first, or give it an Input"
        raise invalid("prepare", "model", "built", model.name, advice)


def _inner(layer: Any) -> Any:
    """The innermost layer of nested wrappers."""
    return _inner(layer.layer) if isinstance(layer, keras.layers.Wrapper) else layer


def _settled(
    model: Any, recorded: RecordedModel, recipe: Recipe, data: Any, verbose: bool
) -> tuple[Sequence[Settled], Summary]:
    """The quantizers, from the weights of the model and its run on the data, and the summary."""

    def values(position: int, weight: Weight) -> np.ndarray:
        layer, name = recorded.calls[position].holder_of(weight.name)
        slots, slot = located(layer, slot_of(layer, name))
        return slots[slot].numpy()

    def observe(positions: Sequence[int]) -> dict[int, Observation]:
        return _observe(model, recorded, positions, data, verbose)

    return settle(recorded.graph, recipe, BaseKerasTrainableQuantizer, values, observe)


def _observe(
    model: Any, recorded: RecordedModel, positions: Sequence[int], data: Any, verbose: bool
) -> dict[int, Observation]:
    """Statistics of the results of calls over all batches; calls beyond those of a run begin again."""
    seen = {(recorded.calls[position].place, recorded.calls[position].result): Observation() for position in positions}
    places = executions(model)
    count: Counter[int] = Counter()

    def see(layer: Any, result: Any) -> None:
        run = places[id(layer)]
        place = run[count[id(layer)] % len(run)]
        count[id(layer)] += 1
        for at, value in enumerate(tf.nest.flatten(result)):
            if (place, at) in seen:
                seen[place, at].update(_as_array(value))

    inputs = input_layers(model) if is_graph(model) else []  # a Sequential may have others once it ran
    layers = [call.layer for call in recorded.calls if id(call.layer) in places]
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]
    with watching(layers, see):
        for given, _ in run_on(model, data, "prepare", "calibration_data", verbose, MAX_BATCHES):
            for layer, value in zip(inputs, in_order(model, given) if inputs else (), strict=True):
                see(layer, value)
    return dict(zip(positions, seen.values(), strict=True))


def _as_array(value: Any) -> np.ndarray | None:
    """A floating tensor as an array; None for anything else, also for one inside a tf.function."""
    readable = isinstance(value, tf.Tensor) and value.dtype.is_floating and hasattr(value, "numpy")
    return tf.cast(value, tf.float32).numpy() if readable else None
