"""Keeps quantization parameters apart from weights in optimizers, without weight decay."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core import VariableGroup
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.inventory import trainable_quantizers


def exclude_quantizers_from_weight_decay(optimizer: Any, model: Any) -> Any:
    """Exclude the parameters of quantizers from the weight decay of a Keras optimizer; returns the optimizer.

    Weight decay would pull thresholds, and so the ranges of the quantizers, towards zero. Call it before the
    model trains.

    Args:
        optimizer: Of Keras, one that decays weights; changed in place.
        model: Holds trainable quantizers, ours or your own.

    Raises:
        QuantizerError: no parameter of a quantizer in the model can train, or the optimizer is built already.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> from trainable_quantizers_keras.keras_version import keras
        >>> x = np.random.randn(8, 4).astype("float32")
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe.preset("mixed_w4a8"), [x], verbose=False)
        >>> optimizer = exclude_quantizers_from_weight_decay(keras.optimizers.AdamW(1e-3, weight_decay=1e-2), model)
        >>> model.compile(optimizer, "mse")
    """
    variables = [
        variable
        for quantizer in trainable_quantizers(model)
        for group in VariableGroup
        for variable in quantizer.get_trainable_variables(group)
    ]
    if not variables:
        advice = "prepare it first; frozen quantizers have none"
        rule = "one with quantization parameters that train"
        raise invalid("exclude_quantizers_from_weight_decay", "model", rule, getattr(model, "name", model), advice)
    if getattr(optimizer, "built", False) or getattr(optimizer, "_built", False):
        advice = "make a new optimizer, and call this before the first step"
        raise invalid("exclude_quantizers_from_weight_decay", "optimizer", "new", type(optimizer).__name__, advice)
    optimizer.exclude_from_weight_decay(var_list=variables)
    return optimizer
