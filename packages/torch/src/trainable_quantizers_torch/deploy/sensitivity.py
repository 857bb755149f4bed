"""The effect of each quantizer alone on the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree
from trainable_quantizers_core.deploy.sensitivity import measured_sensitivity
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.report.sensitivity import Sensitivity

from trainable_quantizers_torch.calibration.batches import batches_of, run_on
from trainable_quantizers_torch.inventory import quantizers_of
from trainable_quantizers_torch.layers.copies import copied
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper


def sensitivity(model: nn.Module, data: Any) -> Sensitivity:
    """Measure, without labels, the error that each quantizer alone causes, with all others bypassed.

    error = Σ(y - y_float)² / Σy_float² over all floating outputs on the data, in evaluation. Give the quantizers at the
    top of the list more bits, and those at the end fewer. The model runs once for each quantizer: one or a few batches
    are enough.

    Args:
        model: A model from ``prepare``; it stays as it is.
        data: Batches as for ``prepare``.

    Raises:
        QuantizerError: no trainable quantizers, no data, or a batch that the model does not take.

    Examples:
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(16, 4)
        >>> found = sensitivity(prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False), [x])
        >>> len(found.quantizers)  # of two weights, the input, the activation function and the output
        5
    """
    return measured(model, data, "sensitivity")


def measured(
    model: nn.Module, data: Any, owner: str, keep: Callable[[PlacedQuantizer], bool] = lambda each: True
) -> Sensitivity:
    """``sensitivity`` of the quantizers that ``keep`` accepts, for a function ``owner``."""
    twin = copied(model, owner) if isinstance(model, nn.Module) else model
    placed = quantizers_of(twin)
    if not placed:
        advice = "pass what prepare returned; a converted model has none left"
        raise invalid(owner, "model", "one that holds trainable quantizers", type(model).__name__, advice)
    batches = list(batches_of(data, owner))
    wrappers = [each for each in twin.modules() if isinstance(each, PytorchTrainableQuantizationWrapper)]

    def outputs() -> Iterator[np.ndarray]:
        for _, result in run_on(twin, batches, owner):
            for leaf in _pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                    yield leaf.double().cpu().numpy()

    return measured_sensitivity(placed, wrappers, outputs, keep)
