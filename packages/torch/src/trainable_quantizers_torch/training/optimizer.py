"""Keeps quantization parameters apart from weights in optimizers, without weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn
from trainable_quantizers_core import VariableGroup
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.deploy.convert import quantizers_in


def parameter_groups(
    model: nn.Module, *, weight_decay: float = 0.0, quantizer_learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Two parameter groups for any PyTorch optimizer: the network's parameters, and those of its quantizers.

    The second has no weight decay, which would pull thresholds, and so the ranges of the quantizers, towards zero.

    Args:
        model: Holds trainable quantizers, ours or your own.
        weight_decay: For the network's parameters.
        quantizer_learning_rate: For the quantizers; None takes that of the optimizer.

    Raises:
        QuantizerError: no parameter of a quantizer in the model can train.

    Examples:
        >>> import torch
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> x = torch.randn(8, 4)
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> groups = parameter_groups(model, weight_decay=1e-4, quantizer_learning_rate=1e-3)
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-2)
        >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        [(2, 0.01, 0.0001), (3, 0.001, 0.0)]
    """
    of_quantizers = {
        id(parameter)
        for module in model.modules()
        for quantizer in quantizers_in(module)
        for group in VariableGroup
        for parameter in quantizer.get_trainable_variables(group)
    }
    if not of_quantizers:
        advice = "prepare it first; frozen quantizers have none"
        rule = "one with quantization parameters that train"
        raise invalid("parameter_groups", "model", rule, type(model).__name__, advice)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own_rate = {} if quantizer_learning_rate is None else {"lr": quantizer_learning_rate}
    return [
        {"params": [p for p in parameters if id(p) not in of_quantizers], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in of_quantizers], "weight_decay": 0.0, **own_rate},
    ]
