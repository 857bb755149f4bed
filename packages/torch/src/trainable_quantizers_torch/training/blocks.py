"""Trains the layers of a block together, so that the block gives its float output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.training.reconstruct import Reconstruction

from trainable_quantizers_torch.kernels.accumulator import step_of_bias
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper

Call = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Arguments of a layer or block, arguments by name, and the result in float."""


def relative_error(result: Any, wanted: Any) -> torch.Tensor:
    """Σ(y - y_float)²/Σy_float² over the floating tensors of a result."""
    pairs = [
        (one, other)
        for one, other in zip(_pytree.tree_leaves(result), _pytree.tree_leaves(wanted), strict=True)
        if isinstance(other, torch.Tensor) and other.is_floating_point()
    ]
    power = sum(other.square().sum() for _, other in pairs)
    return sum((one - other).square().sum() for one, other in pairs) / (power + 1e-30)


def learn_block(
    block: nn.Module,
    wrappers: Sequence[PytorchTrainableQuantizationWrapper],
    calls: Sequence[Call],
    how: Reconstruction,
) -> None:
    """Train weights and biases of a block's layers, in place; a block that does no better stays as it was.

    A weight of channel c is w + Δ[c]·v and a bias b + Δ[c]·u, where Adam learns v and u, so that a learning rate means
    steps of the weight's grid, independent of the scale of its channel.

    Args:
        block: The block, which is called.
        wrappers: Its layers with quantized weights.
        calls: On data.
        how: For how many steps, and how fast.
    """
    parameters = [each for wrapper in wrappers for each in _with_steps(wrapper)]
    tensors = [parameter for parameter, _ in parameters]
    kept = [parameter.detach().clone() for parameter in tensors]
    moved = [torch.zeros_like(value) for value in kept]
    optimizer = torch.optim.Adam(moved, how.learning_rate)

    @torch.no_grad()
    def error() -> torch.Tensor:
        return sum((_error(block, call) for call in calls), torch.zeros(()))

    before = error()
    with _requiring_gradients(tensors):
        for step in range(how.steps):
            with torch.enable_grad():
                gradients = torch.autograd.grad(_error(block, calls[step % len(calls)]), tensors, allow_unused=True)
            optimizer.param_groups[0]["lr"] = how.rate(step)
            for move, gradient, (_, scale) in zip(moved, gradients, parameters, strict=True):
                move.grad = None if gradient is None else gradient * scale
            optimizer.step()
            _assign(
                tensors, [value + move * scale for value, move, (_, scale) in zip(kept, moved, parameters, strict=True)]
            )
    if not error() < before:
        _assign(tensors, kept)


def _with_steps(wrapper: PytorchTrainableQuantizationWrapper) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and bias of a layer, each with Δ of its channels."""
    pairs = wrapper.get_weights_vars()
    for _, weight, quantizer in pairs:
        yield weight, quantizer.broadcast(quantizer.step(), weight)
    bias = getattr(wrapper.layer, "bias", None)
    if isinstance(bias, nn.Parameter) and len(pairs) == 1:
        yield bias, step_of_bias(pairs[0][2].step(), bias.numel())


@contextmanager
def _requiring_gradients(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    wanted = [tensor.requires_grad for tensor in tensors]
    for tensor in tensors:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor, want in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(want)


@torch.no_grad()
def _assign(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _error(block: Callable[..., Any], call: Call) -> torch.Tensor:
    args, kwargs, wanted = call
    return relative_error(block(*args, **kwargs), wanted)
