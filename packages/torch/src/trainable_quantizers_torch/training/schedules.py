"""Advances the schedules of quantizers during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.deploy.convert import quantizers_in
from trainable_quantizers_torch.inventory import quantized_weights
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer


def advance_schedules(model: nn.Module, steps: int | torch.Tensor = 1) -> None:
    """Advance the schedules of a model's quantizers by ``steps``; call it after each step of the optimizer.

    The count is part of the model's state: a training that resumes from a state dict goes on where it was.

    Args:
        model: Holds the quantizers.
        steps: Number of steps.

    Raises:
        QuantizerError: no quantizer of the model counts steps.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> recipe = Recipe(weights={"num_bits": 4, "schedule": {"start": 2}})
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False)
        >>> advance_schedules(model)
        >>> model.get_buffer("0.weight_step")
        tensor(1)
    """
    quantizers = _scheduled("advance_schedules", model)
    for weight, quantizer in quantized_weights(model):
        quantizer.follow(weight, steps)
    for quantizer in quantizers:
        quantizer.advance(steps)


def follow_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Advance the schedules of ``model`` after each step of ``optimizer``, in any training loop.

    Steps that a gradient scaler skips, or that gradient accumulation postpones, do not count. Call it each time
    that the program starts, once the model has its quantizers; ``remove()`` on the result ends it. Optimizers
    wrapped by accelerate or Lightning work too.

    Args:
        model: Holds the quantizers.
        optimizer: Trains the model.

    Raises:
        QuantizerError: no quantizer of the model counts steps, or ``optimizer`` is not a PyTorch optimizer.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> recipe = Recipe(weights={"num_bits": 4, "schedule": {"start": 2}})
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = follow_optimizer(model, optimizer)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> model.get_buffer("0.weight_step")
        tensor(1)
    """
    _scheduled("follow_optimizer", model)
    wrapped = getattr(optimizer, "optimizer", None)
    if isinstance(wrapped, torch.optim.Optimizer):
        optimizer = wrapped
    if not isinstance(optimizer, torch.optim.Optimizer):
        advice = "with any other, call advance_schedules(model) after each step"
        raise invalid("follow_optimizer", "optimizer", "a torch.optim.Optimizer", optimizer, advice)

    def advance(stepped: torch.optim.Optimizer, *_: Any) -> None:
        left_out = getattr(stepped, "found_inf", None)  # a gradient scaler lets a fused optimizer decide by itself
        advance_schedules(model, 1 if left_out is None else 1 - left_out.long().reshape(()))

    return optimizer.register_step_post_hook(advance)


def _scheduled(owner: str, model: nn.Module) -> list[BasePytorchTrainableQuantizer]:
    quantizers = [quantizer for module in model.modules() for quantizer in quantizers_in(module)]
    scheduled = [quantizer for quantizer in quantizers if quantizer.counts_steps]
    if not scheduled:
        advice = "give the recipe a schedule, or its weights oscillations, or leave this out"
        rule = "one whose quantizers have schedules or oscillations"
        raise invalid(owner, "model", rule, type(model).__name__, advice)
    return scheduled
