"""Metrics of quantizers during training, for TensorBoard, other loggers or inspection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mct_quantizers import PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.training.telemetry import means, oscillations, repeatable, scalars

from trainable_quantizers_torch.calibration.batches import batches_of, modes_kept, moved
from trainable_quantizers_torch.inventory import quantizers_of
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.report import report


def telemetry(
    model: nn.Module,
    data: Any,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    writer: Any = None,
    step: int | None = None,
) -> dict[str, float]:
    """Thresholds, clipped share, range used, SQNR and gradient ratio of each quantizer, as ``layer.attribute/figure``.

    Measured in evaluation on batches of your choice, so that results are comparable over time; it changes nothing
    in the model, gradients included. The figures are those of ``trainable_quantizers_core.training.telemetry``.

    Args:
        model: Holds trainable quantizers.
        data: Batches as for ``prepare``; a few are enough.
        loss: ``loss(model, batch)`` gives the loss of a batch; without it there are no gradient ratios. They are
            means over the batches.
        writer: Also writes them: a ``torch.utils.tensorboard.SummaryWriter``, or any object with its ``add_scalar``.
        step: Number of the step, for the writer.

    Raises:
        QuantizerError: no trainable quantizers, data that the model does not take, an invalid loss or writer.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> x = torch.randn(8, 4)
        >>> recipe = Recipe(activations={"method": "symmetric"})
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), recipe, [x], verbose=False)
        >>> found = telemetry(model, [x], loss=lambda model, batch: model(batch).square().mean())
        >>> [name for name in found if name.startswith("0.output")]
        ['0.output/threshold', '0.output/clipped', '0.output/range_used', '0.output/levels_used', \
'0.output/sqnr', '0.output/gradient_ratio']
    """
    if writer is not None and not callable(getattr(writer, "add_scalar", None)):
        advice = "pass torch.utils.tensorboard.SummaryWriter(folder), or leave it out and log what this returns"
        raise invalid("telemetry", "writer", "one with add_scalar", writer, advice)
    data = repeatable(batches_of(data, "telemetry"))
    found = scalars(report(model, data))
    found.update(oscillations({f"{each.layer}.{each.attribute}": each.quantizer for each in quantizers_of(model)}))
    if loss is not None:
        found.update(means(_gradient_ratios(model, data, loss)))
    if writer is not None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)
    return found


def _gradient_ratios(
    model: nn.Module, data: Any, loss: Callable[[nn.Module, Any], torch.Tensor]
) -> Iterator[dict[str, float]]:
    """The gradient ratios of each batch."""
    placed = quantizers_of(model)
    inputs: dict[int, list[torch.Tensor]] = {}

    def keep(each: PlacedQuantizer) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            inputs.setdefault(id(each), []).append(x)
            return (x, *args[1:])

        return hook

    with modes_kept(model), ExitStack() as stack:
        model.eval()
        for each in placed:
            if not isinstance(each.holder, PytorchQuantizationWrapper):
                stack.callback(each.holder.register_forward_pre_hook(keep(each)).remove)
        for batch in data:
            inputs.clear()
            with torch.enable_grad():
                value = loss(model, moved(model, batch))
            if not isinstance(value, torch.Tensor) or value.ndim or not value.requires_grad:
                advice = "write loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1])"
                raise invalid("telemetry", "loss", "a function that gives a scalar with a gradient", value, advice)
            yield _of_batch(placed, inputs, value)


def _of_batch(
    placed: list[PlacedQuantizer], inputs: dict[int, list[torch.Tensor]], loss: torch.Tensor
) -> dict[str, float]:
    wanted: list[tuple[PlacedQuantizer, list[torch.Tensor], list[torch.Tensor]]] = []
    for each in placed:
        parameters = [each.quantizer.get_quantizer_variable(name) for name in each.quantizer.specification.initial]
        if isinstance(each.holder, PytorchQuantizationWrapper):
            trains = isinstance(each.holder, PytorchTrainableQuantizationWrapper)
            quantized = [
                each.holder.float_weight(key) if trains else weight
                for key, weight, _ in each.holder.get_weights_vars()
                if str(key) == each.attribute
            ]
        else:
            quantized = list(inputs.get(id(each), ()))  # recomputed parts of checkpoints come later
        if quantized and all(tensor.requires_grad for tensor in (*parameters, *quantized)):
            wanted.append((each, parameters, quantized))
    tensors = [tensor for _, *parts in wanted for part in parts for tensor in part]
    gradients = iter(torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True) if tensors else ())
    ratios = {}
    for each, parameters, quantized in wanted:
        of_parameters = [_array(next(gradients)) for _ in parameters]
        of_quantized = np.concatenate([_array(next(gradients)).ravel() for _ in quantized])
        values = np.concatenate([_array(tensor).ravel() for tensor in quantized])
        ratio = each.gradient_ratio(of_parameters, values, of_quantized)
        ratios[f"{each.layer}.{each.attribute}/gradient_ratio"] = ratio
    return ratios


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
