"""The bias of a layer, on the grid of its accumulator: contract section 5."""

from __future__ import annotations

from typing import Any

import torch
from trainable_quantizers_core.quantizer import accumulator as rules

from trainable_quantizers_torch.kernels.effective import TORCH_OPS
from trainable_quantizers_torch.kernels.operator import operator


def round_bias(bias: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """round(b/Δ)·Δ with Δ = Δ_x·Δ_w, clipped to 32 bits; dL/db = g where nothing was clipped, and none for Δ.

    Examples:
        >>> round_bias(torch.tensor([0.3, -0.375]), torch.tensor(0.25)).tolist()
        [0.25, -0.5]
    """
    return _round_bias(bias.float(), step.expand_as(bias)).to(bias.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
    return rules.bias_gradient(TORCH_OPS, g, *ctx.saved_tensors), None


_round_bias = operator(
    "round_bias(Tensor bias, Tensor step) -> Tensor",
    lambda bias, step: rules.rounded_bias(TORCH_OPS, bias, step),
    _keep,
    _backward,
    fake=lambda bias, step: torch.empty_like(bias),
)
