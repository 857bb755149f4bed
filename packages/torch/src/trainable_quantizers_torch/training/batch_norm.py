"""Re-estimates batch norm statistics for the final weights of training."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.calibration.batches import arguments_of, batch_explained, batches_of, modes_kept


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, data: Any) -> nn.Module:
    """Replace running mean and variance of each batch norm by means over batches, in place; returns the model.

    At few bits weights keep jumping between two levels until training ends, and running averages lag behind: they
    describe earlier weights (Nagel et al. 2022, arXiv 2203.11086). All other layers work as in evaluation, with
    their quantizers. A batch counts as much as any other, as with ``momentum=None``. Norms that were folded have no
    statistics left; those that fold at conversion have, and the weights that they fold into stay as they are until the
    last batch.

    Args:
        model: A prepared model after training, before ``convert``.
        data: Batches as for ``prepare``, of the size that training used.

    Raises:
        QuantizerError: no batch norm with running statistics, no data, or a batch that the model does not take.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> model = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> model[1].running_mean.abs().sum().item()
        0.0
        >>> reestimate_batch_norm(model, [x])[1].running_mean.abs().sum().item() > 0
        True
    """
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not norms:
        advice = "prepare with fold_batch_norm=False or 'at_conversion' to train with norms"
        raise invalid("reestimate_batch_norm", "model", "one with batch norms", type(model).__name__, advice)
    momenta = [norm.momentum for norm in norms]
    batches = list(batches_of(data, "reestimate_batch_norm"))
    if not batches:
        raise invalid("reestimate_batch_norm", "data", "at least one batch", data, "pass a list or a loader")
    folded = [norm for each in model.modules() if (norm := vars(each).get("folded_norm")) is not None]
    with modes_kept(model), ExitStack() as stack:
        model.eval()
        for each in folded:
            stack.enter_context(each.held())
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for count, batch in enumerate(batches):
                args, kwargs = arguments_of(model, batch)
                with batch_explained("reestimate_batch_norm", "data", batch, count):
                    model(*args, **kwargs)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return model
