"""Reports the effect of quantization on the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer, Sample, measured
from trainable_quantizers_core.report import ModelReport, Sensitivity, SkippedLayer, TensorReport

from trainable_quantizers_keras.calibration.batches import run_on
from trainable_quantizers_keras.graph.watch import watching
from trainable_quantizers_keras.inventory import quantizers_of, watched_sums
from trainable_quantizers_keras.keras_version import full_precision, keras
from trainable_quantizers_keras.prepare import find_summary


def report(
    model: Any,
    data: Any = None,
    accuracies: Mapping[str, float] | None = None,
    sensitivity: Sensitivity | None = None,
) -> ModelReport:
    """The report of a trained model, before it is converted; show it with ``write_html`` or ``print_report``.

    Weights are measured whole; of each activation up to 2^18 values, spread over the batches.

    Args:
        model: Holds trainable quantizers.
        data: Batches as for ``prepare``; without them activations are listed, but not measured.
        accuracies: Accuracies to show as well, by label.
        sensitivity: The result of ``sensitivity(model, data)``, to show the error of each quantizer.

    Raises:
        QuantizerError: no trainable quantizers, or data that the model does not take.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="head")])
        >>> model = prepare(network, Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> [f"{tensor.layer}.{tensor.attribute}" for tensor in report(model, [x]).tensors]
        ['x.output', 'head.kernel', 'head.output']
    """
    placed = quantizers_of(model)
    if not placed:
        advice = "prepare it first; a converted model has no trainable quantizers left"
        raise invalid("report", "model", "one that holds trainable quantizers", model, advice)
    samples, seen = _samples(model, placed, data) if data is not None else ({}, {})
    found = find_summary(model)
    skipped = [
        SkippedLayer(row.layer, row.type, row.reason)
        for row in (() if found is None else found.rows)
        if not row.weights and not row.activations
    ]
    version = getattr(keras, "__version__", "2")
    return ModelReport(
        model=model.name,
        framework=f"Keras {version}, TensorFlow {tf.__version__}",
        tensors=tuple(_measured(each, samples, seen) for each in placed),
        skipped=tuple(skipped),
        accuracies=dict(accuracies or {}),
        coverage={} if found is None else found.work.figures,
        sensitivity=sensitivity,
    )


def _samples(model: Any, placed: list[PlacedQuantizer], data: Any) -> tuple[dict[int, Sample], dict[str, int]]:
    """The samples of each holder, by identity; and the bits that sums needed, by layer."""
    samples = {id(each.holder): Sample() for each in placed if each.target == "activation"}

    def see(holder: Any, inputs: Any) -> None:
        samples[id(holder)].add(tf.cast(inputs, tf.float32).numpy())

    holders = [each.holder for each in placed if id(each.holder) in samples]
    with watching(holders, see, before=True), watched_sums(placed) as seen:
        for _ in run_on(model, data, "report"):
            pass
    return samples, seen


def _measured(each: PlacedQuantizer, samples: dict[int, Sample], seen: dict[str, int]) -> TensorReport:
    if each.target == "weights":
        weights = {str(key): weight for key, weight, _ in each.holder.get_weights_vars()}
        values = tf.cast(full_precision(weights[each.attribute]), tf.float32).numpy()
    elif id(each.holder) in samples and samples[id(each.holder)].values.size:
        values = samples[id(each.holder)].values
    else:
        return each.report()
    return measured(each, values, lambda x: each.quantizer(tf.convert_to_tensor(x), False).numpy(), seen)
