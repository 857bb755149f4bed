"""Rounds a bias to the accumulator's grid, and limits weights to its bits (contract section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trainable_quantizers_core.quantizer import accumulator as rules
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_torch.kernels.effective import TORCH_OPS
from trainable_quantizers_torch.kernels.layout import as_array
from trainable_quantizers_torch.kernels.operator import on_cpu, operator


def step_of_bias(step: torch.Tensor, size: int) -> torch.Tensor:
    """Δ_w for each of ``size`` items of a bias, of Δ for one or fewer channels: groups come one after the other.

    Examples:
        >>> step_of_bias(torch.tensor([0.5, 0.25]), 4).tolist()
        [0.5, 0.25, 0.5, 0.25]
    """
    return rules.per_bias(step, size, lambda step, times: step.repeat(times))  # type: ignore[no-any-return]


def round_bias(
    bias: torch.Tensor, step: torch.Tensor, finest: torch.Tensor | None = None, largest: int = rules.LARGEST_BIAS
) -> torch.Tensor:
    """round(b/Δ)·Δ, clipped to the accumulator; dL/db = g where nothing was clipped, and none for Δ.

    Args:
        bias: b, of shape (channels,).
        step: Δ = Δ_x·Δ_w, of shape () or (channels,), with the coarsest Δ_x.
        finest: The finest Δ_x over the coarsest; None where they are one.
        largest: The largest |b| in finest steps.

    Examples:
        >>> round_bias(torch.tensor([0.3, -0.375]), torch.tensor(0.25)).tolist()
        [0.25, -0.5]
    """
    return _round_bias(bias.float(), step, finest, float(largest)).to(bias.dtype)


def limit_weight(
    weight: torch.Tensor, step: torch.Tensor, room: torch.Tensor, axis: int, grid: Grid, inputs: tuple[int, int]
) -> torch.Tensor:
    """The weight, with levels of smaller sums in those channels whose sums exceed their room.

    dL/dw = g, but where a channel changed and the weight was clipped; no gradient reaches the step or the room.

    Args:
        weight: Of any shape.
        step: Δ_w, of shape () or (channels,).
        room: Range of the accumulator left beside the bias, in steps, of shape (channels,).
        axis: Of the channels.
        grid: Of the weight.
        inputs: The lowest and the highest level of an input.

    Examples:
        >>> weight = torch.tensor([[4.2, -3.0, 1.0], [1.0, 1.25, 0.0]])
        >>> limit_weight(weight, torch.tensor(1.0), torch.tensor([60.0, 60.0]), 0, Grid(4, True), (0, 15)).tolist()
        [[3.0, -3.0, 1.0], [1.0, 1.25, 0.0]]
    """
    ends = (grid.lowest, grid.highest, max(-inputs[0], inputs[1]), inputs[0] < 0)
    return _limit_weight(weight.float(), step, room, axis % weight.ndim, *ends).to(weight.dtype)


def _on_biases(rule: Callable[..., Any], bias: torch.Tensor, *tensors: torch.Tensor | None, largest: float) -> Any:
    """``rule(ops, bias, step, finest, largest)``; on a CPU in numpy, whose calls take a third of the time."""
    if not on_cpu(bias):
        return rule(TORCH_OPS, bias, *tensors, largest)
    arrays = (None if each is None else as_array(each) for each in (bias, *tensors))
    return torch.from_numpy(rule(NUMPY_OPS, *arrays, largest))


def _keep_bias(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.largest = inputs
    if not (on_cpu(tensors[0]) and _on_biases(rules.bias_passes, *tensors, largest=ctx.largest).all()):
        ctx.save_for_backward(*tensors)


def _bias_backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    if ctx.saved_tensors:
        bias, step, finest = ctx.saved_tensors
        g = torch.where(rules.bias_passes(TORCH_OPS, bias, step, finest, ctx.largest), g, 0.0)
    return g, None, None, None


_round_bias = operator(
    "round_bias(Tensor bias, Tensor step, Tensor? finest, float largest) -> Tensor",
    lambda bias, step, finest, largest: _on_biases(rules.rounded_bias, bias, step, finest, largest=largest),
    _keep_bias,
    _bias_backward,
    fake=lambda bias, *_: torch.empty_like(bias),
)


def _rows(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    return tensor.movedim(axis, 0).flatten(1)


def _limited(
    weight: torch.Tensor,
    step: torch.Tensor,
    room: torch.Tensor,
    axis: int,
    lowest: int,
    highest: int,
    widest: int,
    signed: bool,
) -> torch.Tensor:
    rows, step = _rows(weight, axis), step.reshape(-1, 1)
    levels, changed = rules.limited(TORCH_OPS, (rows / step).clamp(lowest, highest), room, widest, signed)
    if on_cpu(changed) and not changed.any():
        return weight.clone(memory_format=torch.contiguous_format)
    found = torch.where(changed[:, None], levels * step, rows)
    return found.reshape(weight.movedim(axis, 0).shape).movedim(0, axis).contiguous()


def _keep_weight(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weight, step, _, axis, lowest, highest, *_ = inputs
    if on_cpu(weight) and torch.equal(weight, output):
        return
    levels = _rows(weight, axis) / step.reshape(-1, 1)
    inside = ((levels >= lowest) & (levels <= highest)).reshape(weight.movedim(axis, 0).shape).movedim(0, axis)
    ctx.save_for_backward(inside | (output == weight))


def _weight_backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    return g * ctx.saved_tensors[0] if ctx.saved_tensors else g, *(None,) * 7


_limit_weight = operator(
    "limit_weight(Tensor weight, Tensor step, Tensor room, int axis, int lowest, int highest, int widest, bool signed)"
    " -> Tensor",
    _limited,
    _keep_weight,
    _weight_backward,
    fake=lambda weight, *_: torch.empty_like(weight, memory_format=torch.contiguous_format),
    opaque=True,
)
