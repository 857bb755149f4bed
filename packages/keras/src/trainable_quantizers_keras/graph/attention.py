"""Attention split into two products and a softmax, so that each result can be quantized."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trainable_quantizers_keras.keras_version import keras


def attention_of(operation: Any) -> Callable[..., Any]:
    """The parts of an operation ``DotProductAttention``, which holds the options."""
    soft_cap = getattr(operation, "attn_logits_soft_cap", None)
    return partial(attention_by_parts, is_causal=operation.is_causal, soft_cap=soft_cap)


def attention_by_parts(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
    soft_cap: float | None = None,
) -> Any:
    """``keras.ops.dot_product_attention``: softmax(scale · Q Kᵀ + bias) V, of symbols (batch, length, heads, size)."""
    ops = keras.ops
    groups = query.shape[2] // key.shape[2]
    if groups > 1:  # several heads of the query read one of the key
        key, value = ops.repeat(key, groups, axis=2), ops.repeat(value, groups, axis=2)
    query = ops.multiply(query, query.shape[-1] ** -0.5 if scale is None else scale)
    scores = ops.einsum("btnh,bsnh->bnts", query, key)
    if soft_cap is not None:
        scores = ops.multiply(ops.tanh(ops.divide(scores, soft_cap)), soft_cap)
    if bias is not None:
        scores = ops.add(scores, bias)
    if is_causal:
        ones = ops.ones_like(scores[:1, :1], dtype="int32")
        causal = ops.greater_equal(ops.cumsum(ones, axis=-2), ops.cumsum(ones, axis=-1))
        mask = causal if mask is None else ops.logical_and(mask, causal)
    softmax = keras.layers.Softmax(name=None)
    weights = softmax(scores) if mask is None else softmax(scores, mask=mask)
    return ops.einsum("bnts,bsnh->btnh", weights, value)
