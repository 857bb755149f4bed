"""Batch norm folded into the layer before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainable_quantizers_keras.graph.kinds import kind_of, weights_of
from trainable_quantizers_keras.graph.record import record
from trainable_quantizers_keras.layers.copies import build_like, copied


def fold_batch_norm(model: Any, notes: Mapping[int, str] | None = None) -> tuple[Any, dict[str, str], dict[int, str]]:
    """A copy without the batch norms whose only input is a convolution or dense layer.

    Args:
        model: The model; stays as it is.
        notes: About its layers, by their identity.

    Returns:
        The copy; paths of folded norms and of their layers; the notes, about the layers of the copy.

    Exact in evaluation, up to float32 rounding: y = (Wx + b - mean)/sqrt(var + eps)·gamma + beta. From here on the
    statistics of the batch norm are constants.
    """
    recorded = record(model)
    found = recorded.graph.folded().items()
    pairs = {recorded.calls[before].layer: recorded.calls[norm].layer for norm, before in found}
    norms = {id(norm): norm for norm in pairs.values()}
    fused = {layer: _fuse(layer, norm) for layer, norm in pairs.items()}

    def replace(layer: Any, call: Any) -> Any:
        return None if id(layer) in norms else fused.get(layer, layer)

    copies: dict[int, Any] = {}
    folded = copied(model, replace, copies=copies)
    about = {id(copies[identity]): note for identity, note in (notes or {}).items() if identity in copies}
    return folded, {recorded.graph[norm].layer: recorded.graph[before].layer for norm, before in found}, about


def _fuse(layer: Any, norm: Any) -> Any:
    mean, variance = np.asarray(norm.moving_mean, np.float64), np.asarray(norm.moving_variance, np.float64)
    gamma = np.ones_like(mean) if norm.gamma is None else np.asarray(norm.gamma, np.float64)
    beta = np.zeros_like(mean) if norm.beta is None else np.asarray(norm.beta, np.float64)
    factor = gamma / np.sqrt(variance + norm.epsilon)
    *others, name = weights_of(layer)  # of a separable convolution, the pointwise one comes last
    kernel = np.asarray(getattr(layer, name), np.float64)
    if type(layer).__name__.startswith("Depthwise"):
        of_kernel = factor.reshape(kernel.shape[-2:])
    else:
        of_kernel = factor[:, None] if kind_of(layer) == "conv_transpose" else factor
    bias = np.zeros_like(mean) if layer.bias is None else np.asarray(layer.bias, np.float64)
    fused = type(layer).from_config({**layer.get_config(), "use_bias": True})
    build_like(layer, fused)
    for other in others:
        getattr(fused, other).assign(getattr(layer, other))
    getattr(fused, name).assign((kernel * of_kernel).astype(np.float32))
    fused.bias.assign(((bias - mean) * factor + beta).astype(np.float32))
    return fused
