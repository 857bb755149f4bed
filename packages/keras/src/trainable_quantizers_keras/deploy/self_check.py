"""The check that a prepared model, with its quantizers bypassed, computes the same as the float model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from trainable_quantizers_core.deploy.self_check import check_computation, quantizers_set_aside

from trainable_quantizers_keras.deploy.verify import compared
from trainable_quantizers_keras.inventory import trainable_quantizers
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer


def check_prepared(model: Any, prepared: Any, batch: Any, folded: Collection[str]) -> None:
    """Check that a prepared model computes the same; an error names the first layer that does not.

    Args:
        model: The float model.
        prepared: Its copy with quantizers, before biases are corrected.
        batch: A batch of calibration data.
        folded: Names of layers that took in a batch norm.

    Raises:
        QuantizerError: outputs differ by more than 1 % of the largest value.
    """
    quantizers = trainable_quantizers(prepared)
    if not all(isinstance(each, KerasRangeQuantizer) for each in quantizers):
        return  # the user's own quantizers cannot be bypassed
    wrappers = [layer for layer in prepared._flatten_layers() if isinstance(layer, KerasTrainableQuantizationWrapper)]
    with quantizers_set_aside(quantizers, wrappers):
        check_computation(
            lambda: compared(model, model, [batch], layers=False)[0],
            lambda layers: compared(model, prepared, [batch], layers)[0],
            folded,
        )
