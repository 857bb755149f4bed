"""Regularizers for weights: hard rounding, bit widths within a budget, and values near their levels."""

from __future__ import annotations

import torch
from torch import nn
from trainable_quantizers_core import Budget
from trainable_quantizers_core.learned_bits import LearnedBits
from trainable_quantizers_core.training.regularizers import damping_terms, rounding_terms

from trainable_quantizers_torch.inventory import quantized_weights, quantizers_of
from trainable_quantizers_torch.prepare import find_summary


def rounding_regularizer(model: nn.Module) -> torch.Tensor:
    """Σ (1 - |2h - 1|^β) over all weights that learn their rounding: it pulls h of soft rounding to 0 or 1.

    β goes from 20 at ``start`` of the schedule to 2 at the end of its ``ramp``; before and after the term is 0. Its
    gradient goes to α alone.

    Args:
        model: A model from ``prepare`` whose weights learn their rounding.

    Raises:
        QuantizerError: no quantizer of the training method AdaRound with a schedule.

    Source: Nagel et al. 2020, arXiv 2004.10568.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> recipe = Recipe({"num_bits": 2, "training_method": "AdaRound", "schedule": {"ramp": 100}})
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False)
        >>> loss = model(torch.ones(1, 4)).sum() + 0.01 * rounding_regularizer(model)
        >>> loss.backward()
        >>> model[0].weight_alpha.grad.shape
        torch.Size([2, 4])
    """
    return torch.stack(rounding_terms(quantized_weights(model), type(model).__name__)).sum()


def budget_regularizer(model: nn.Module, budget: Budget) -> torch.Tensor:
    """max(0, Σ cost/budget - 1): by how much the expected cost of learned widths exceeds a budget.

    A layer costs Σ p_k·cost(b_k) over its candidates, with p = softmax(a/τ) of the present step; all others have a
    fixed cost. Its gradient goes to the attention alone.

    Args:
        model: A model from ``prepare``.
        budget: Bytes, bit operations of one example, or latency. One that cannot be met pulls all widths down.

    Raises:
        QuantizerError: no weights of the training method DQA, a table of latencies that does not fit, or bit operations
            of a model that was prepared without data.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> recipe = Recipe({"training_method": "DQA", "bits_candidates": [2, 4, 8], "schedule": {"ramp": 100}})
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False)
        >>> round(budget_regularizer(model, Budget(weight_bytes=4)).item(), 4)
        0.1667
    """
    learned = LearnedBits.of("budget_regularizer", find_summary(model), quantizers_of(model))
    expected, costs = learned.costs(budget)
    for unit, quantizers in learned.learning.items():
        shares = torch.stack([each.shares() for each in quantizers]).mean(0)
        expected = expected + (shares * shares.new_tensor(costs[unit])).sum()
    return torch.relu(expected - 1)


def oscillation_damping(model: nn.Module) -> torch.Tensor:
    """Σ (y - clip(x, min', max'))² over all weights x of layers, quantized to y: it pulls weights to their levels.

    dL/dx = 2·(x - y) inside the range, else 0; no gradient reaches thresholds. Frozen weights add 0, weights that
    learn their rounding are left out. Add it to the loss with a factor that grows from 0.

    Args:
        model: A model from ``prepare``, or any model that holds wrappers with trainable quantizers.

    Raises:
        QuantizerError: no layer has quantized weights, or all learn their rounding.

    Source: Nagel et al. 2022, arXiv 2203.11086.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe({"num_bits": 2}), verbose=False)
        >>> loss = model(torch.ones(1, 4)).sum() + 1e-3 * oscillation_damping(model)
        >>> loss.backward()
    """
    return torch.stack(damping_terms(quantized_weights(model), type(model).__name__)).sum()
