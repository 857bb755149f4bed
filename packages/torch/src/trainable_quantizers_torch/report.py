"""Reports the effect of quantization on the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mct_quantizers import PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer, Sample, measured
from trainable_quantizers_core.report import ModelReport, Sensitivity, SkippedLayer, TensorReport

from trainable_quantizers_torch.calibration.batches import run_on
from trainable_quantizers_torch.inventory import quantizers_of, watched_sums
from trainable_quantizers_torch.prepare import find_summary


def report(
    model: nn.Module,
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
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> x = torch.randn(8, 4)
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> [f"{tensor.layer}.{tensor.attribute}" for tensor in report(model, [x]).tensors]
        ['0.weight', 'input.output', '0.output']
    """
    placed = quantizers_of(model)
    if not placed:
        advice = "prepare it first; a converted model has no trainable quantizers left"
        raise invalid("report", "model", "one that holds trainable quantizers", type(model).__name__, advice)
    samples, seen = _samples(model, placed, data) if data is not None else ({}, {})
    found = find_summary(model)
    skipped = [
        SkippedLayer(row.layer, row.type, row.reason)
        for row in (() if found is None else found.rows)
        if not row.weights and not row.activations
    ]
    return ModelReport(
        model=type(model).__name__,
        framework=f"PyTorch {torch.__version__.partition('+')[0]}",
        tensors=tuple(_measured(each, samples, seen) for each in placed),
        skipped=tuple(skipped),
        accuracies=dict(accuracies or {}),
        coverage={} if found is None else found.work.figures,
        sensitivity=sensitivity,
    )


def _samples(
    model: nn.Module, placed: list[PlacedQuantizer], data: Any
) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Values of activations, spread over the batches, and of weights that forwards compute, by quantizer.

    Also returns the accumulator bits that were needed, by layer.
    """
    samples: dict[int, Any] = {}

    def watch(each: PlacedQuantizer) -> Any:
        def see(module: nn.Module, args: Any) -> None:
            values = args[0].detach().float().cpu().numpy()
            if each.target == "weights":
                samples[id(each)] = values
            else:
                samples.setdefault(id(each), Sample()).add(values)

        return see

    with ExitStack() as stack, watched_sums(placed) as seen:
        for each in placed:
            if not isinstance(each.holder, PytorchQuantizationWrapper):
                stack.callback(each.holder.register_forward_pre_hook(watch(each)).remove)
        for _ in run_on(model, data, "report"):
            pass
    return {key: getattr(sample, "values", sample) for key, sample in samples.items()}, seen


@torch.no_grad()
def _measured(each: PlacedQuantizer, samples: Mapping[int, np.ndarray], seen: Mapping[str, int]) -> TensorReport:
    if isinstance(each.holder, PytorchQuantizationWrapper):
        weights = {str(key): weight for key, weight, _ in each.holder.get_weights_vars()}
        values = weights[each.attribute].detach().float().cpu().numpy()
    elif id(each) in samples and samples[id(each)].size:
        values = samples[id(each)]
    else:
        return each.report()

    def quantize(x: np.ndarray) -> np.ndarray:
        device = each.quantizer.effective_range()[0].device  # type: ignore[attr-defined]
        return each.quantizer(torch.from_numpy(x).to(device), False).float().cpu().numpy()

    return measured(each, values, quantize, seen)
