"""Folds batch norms into the layers before them, at once or at conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from trainable_quantizers_core.graph.folding import factor_of, folded_bias

from trainable_quantizers_keras.graph.kinds import kind_of, weights_of
from trainable_quantizers_keras.graph.record import record
from trainable_quantizers_keras.layers.copies import build_like, copied
from trainable_quantizers_keras.layers.norm import FoldedNorm


@dataclass(frozen=True)
class Folded:
    """A model without the folded batch norms.

    Args:
        model: The copy.
        norms: The layer that each folded norm is a part of now, by path.
        notes: About the layers of the copy.
        apart: The layer and the norm that a layer of the copy was, by its identity.
    """

    model: Any
    norms: dict[str, str]
    notes: dict[int, str]
    apart: dict[int, tuple[Any, Any]]


def fold_batch_norm(model: Any, notes: Mapping[int, str] | None = None) -> Folded:
    """A copy without the batch norms whose only input is a convolution or dense layer.

    Args:
        model: The model; stays as it is.
        notes: About its layers, by their identity.

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
    names = {recorded.graph[norm].layer: recorded.graph[before].layer for norm, before in found}
    return Folded(folded, names, about, {id(fused[layer]): (layer, norm) for layer, norm in pairs.items()})


def taken_apart(layer: Any, norm: Any) -> tuple[Any, FoldedNorm]:
    """Copies of a layer and the norm behind it, for a wrapper of both; the layer gets a bias if it has none."""
    made = _with_bias(layer)
    *_, name = weights_of(layer)
    return made, FoldedNorm(copied(norm), name, _shape_of_factor(layer, getattr(layer, name)))


def _with_bias(layer: Any) -> Any:
    made = type(layer).from_config({**layer.get_config(), "use_bias": True})
    build_like(layer, made)
    for name in weights_of(layer):
        getattr(made, name).assign(getattr(layer, name))
    made.bias.assign(np.zeros(made.bias.shape, np.float32) if layer.bias is None else layer.bias)
    return made


def _fuse(layer: Any, norm: Any) -> Any:
    mean, variance = np.asarray(norm.moving_mean, np.float64), np.asarray(norm.moving_variance, np.float64)
    gamma, beta, bias = (
        None if each is None else np.asarray(each, np.float64) for each in (norm.gamma, norm.beta, layer.bias)
    )
    factor = factor_of(variance, norm.epsilon, gamma)
    *_, name = weights_of(layer)  # of a separable convolution, the pointwise one comes last
    kernel = np.asarray(getattr(layer, name), np.float64)
    fused = _with_bias(layer)
    getattr(fused, name).assign((kernel * factor.reshape(_shape_of_factor(layer, kernel))).astype(np.float32))
    fused.bias.assign(folded_bias(factor, mean, beta, bias).astype(np.float32))
    return fused


def _shape_of_factor(layer: Any, kernel: Any) -> tuple[int, ...]:
    """The shape in which one number for each channel of the result is multiplied with the weight."""
    if type(layer).__name__.startswith("Depthwise"):
        return tuple(kernel.shape[-2:])
    return (-1, 1) if kind_of(layer) == "conv_transpose" else (-1,)
