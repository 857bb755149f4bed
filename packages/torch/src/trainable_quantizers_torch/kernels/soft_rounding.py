"""Soft rounding, which each weight learns (contract section 4, AdaRound)."""

from __future__ import annotations

import torch


def soft_rounding(x: torch.Tensor, step: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """h(f, α) = clip(1.2·σ(log((f + 0.1)/(1.1 - f)) + α) - 0.1, 0, 1), with f = x/Δ - floor(x/Δ), so that h(f, 0) = f.

    Its gradient goes to α alone.

    Args:
        x: The weight.
        step: Δ, shaped for broadcasting.
        alpha: α, of the shape of x.

    Examples:
        >>> x, step = torch.tensor([0.25, -0.25, 0.25]), torch.tensor(1.0)
        >>> [round(h, 6) for h in soft_rounding(x, step, torch.tensor([0.0, 0.0, 5.0])).tolist()]
        [0.25, 0.75, 1.0]
    """
    v = torch.clamp(x.detach() / step, -(2.0**17), 2.0**17)  # beyond every grid, where infinity has no fraction
    f = v - torch.floor(v)
    return torch.clamp(1.2 * torch.sigmoid(torch.log((f + 0.1) / (1.1 - f)) + alpha) - 0.1, 0.0, 1.0)


def moved(x: torch.Tensor, step: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The weight u = x + Δ·(h(f, α) - h(f, 0)): exactly x where α is 0; gradient 1 to x, and Δ·dh/dα to α.

    Examples:
        >>> moved(torch.tensor([0.25, 0.25]), torch.tensor(1.0), torch.tensor([0.0, 5.0])).tolist()
        [0.25, 1.0]
    """
    return x + step * (soft_rounding(x, step, alpha) - soft_rounding(x, step, torch.zeros_like(alpha)))
