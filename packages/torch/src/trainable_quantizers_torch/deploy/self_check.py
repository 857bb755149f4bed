"""The check that a prepared model, with its quantizers bypassed, computes the same as the float model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
from trainable_quantizers_core.deploy.self_check import check_computation, quantizers_set_aside

from trainable_quantizers_torch.deploy.convert import quantizers_in
from trainable_quantizers_torch.deploy.verify import compared
from trainable_quantizers_torch.layers.copies import copied
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer


def check_prepared(model: nn.Module, prepared: nn.Module, batch: Any, folded: Collection[str]) -> None:
    """Check that a prepared model computes the same; an error names the first layer that does not. Neither is changed.

    Args:
        model: The float model.
        prepared: Its copy with quantizers, before biases are corrected.
        batch: A batch of calibration data.
        folded: Names of layers that took in a batch norm.

    Raises:
        QuantizerError: outputs differ by more than 1 % of the largest value.
    """
    quantizers = [each for module in prepared.modules() for each in quantizers_in(module)]
    if not all(isinstance(each, PytorchRangeQuantizer) for each in quantizers):
        return  # the user's own quantizers cannot be bypassed
    with_quantizers = copied(prepared, "prepare")
    wrappers = [each for each in with_quantizers.modules() if isinstance(each, PytorchTrainableQuantizationWrapper)]
    inside = [each for module in with_quantizers.modules() for each in quantizers_in(module)]
    twin = copied(model, "prepare")
    with quantizers_set_aside(inside, wrappers):
        check_computation(
            lambda: compared(twin, twin, [batch], layers=False)[0],
            lambda layers: compared(copied(model, "prepare"), with_quantizers, [batch], layers)[0],
            folded,
        )
