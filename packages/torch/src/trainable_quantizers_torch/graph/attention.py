"""Attention split into products, sums and a softmax, so that each can be quantized."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.backends import mha
from torch.nn import functional

Call = Callable[..., Any]
"""``call(name, function, *args, **kwargs)`` computes a part, known by a name; it may record or quantize it."""


def scaled_dot_product(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(q·kᵀ·scale + mask)·v, as ``torch.nn.functional.scaled_dot_product_attention``.

    Examples:
        >>> q = torch.randn(2, 4, 5, 8)
        >>> found = scaled_dot_product(lambda name, function, *args: function(*args), q, q, q, is_causal=True)
        >>> torch.allclose(found, functional.scaled_dot_product_attention(q, q, q, is_causal=True), atol=1e-6)
        True
    """
    if enable_gqa:
        times = query.size(-3) // key.size(-3)
        key, value = (call("", torch.Tensor.repeat_interleave, each, times, -3) for each in (key, value))
    if is_causal:
        size = (query.size(-2), key.size(-2))
        attn_mask = torch.ones(size, dtype=torch.bool, device=query.device).tril()
    elif attn_mask is not None and attn_mask.dtype is torch.float32 and query.dtype is not torch.float32:
        attn_mask = attn_mask.to(query.dtype)
    turned = call("", torch.Tensor.transpose, key, -2, -1)
    scores = call("scores", torch.matmul, query, turned)
    weights = _weights(call, scores, 1 / math.sqrt(query.size(-1)) if scale is None else scale, attn_mask, dropout_p)
    return call("", torch.matmul, weights, value)


def _weights(call: Call, scores: Any, scale: float, mask: Any, dropout_p: float) -> Any:
    scores = call("", masked_scores, scores, scale, mask)
    empty = None if mask is None else (scores == -math.inf).all(-1, keepdim=True)
    if empty is not None:  # if everything is masked, the fused function gives zeros
        scores = call("", torch.Tensor.masked_fill, scores, empty, 0.0)
    weights = call("softmax", functional.softmax, scores, -1)
    if empty is not None:
        weights = call("", torch.Tensor.masked_fill, weights, empty, 0.0)
    return call("", torch.dropout, weights, dropout_p, True) if dropout_p else weights


def masked_scores(scores: torch.Tensor, scale: float, mask: torch.Tensor | None) -> torch.Tensor:
    """Scores as the softmax takes them: scaled, -infinity where a mask of booleans is false, plus one of floats."""
    scores = scores * scale
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask


def multi_head(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    bias_k: torch.Tensor | None,
    bias_v: torch.Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    training: bool = True,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: torch.Tensor | None = None,
    k_proj_weight: torch.Tensor | None = None,
    v_proj_weight: torch.Tensor | None = None,
    static_k: torch.Tensor | None = None,
    static_v: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(output, attention weights or None), as ``torch.nn.functional.multi_head_attention_forward``.

    o = out_proj(softmax(q·kᵀ/sqrt(d) + mask)·v) in each head; q, k, v are projections of query, key and value, which
    come as (length, batch, features) or without a batch.
    """
    batched = query.ndim == 3
    if not batched:
        query, key, value = (call("", torch.Tensor.unsqueeze, each, 1) for each in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        weights = call("", torch.Tensor.chunk, in_proj_weight, 3)
    biases: Any = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    parts = zip(("q_proj", "k_proj", "v_proj"), (query, key, value), weights, biases, strict=True)
    q, k, v = (_heads(call, call(part, functional.linear, *given), num_heads) for part, *given in parts)
    scores = call("scores", torch.matmul, q, call("", torch.Tensor.transpose, k, -2, -1))
    mask = _mask(attn_mask, key_padding_mask, scores)
    attention = _weights(call, scores, 1 / math.sqrt(q.size(-1)), mask, dropout_p if training else 0.0)
    heads = call("context", torch.matmul, attention, v)
    joined = call("", torch.Tensor.flatten, call("", torch.Tensor.permute, heads, 2, 0, 1, 3), -2)
    output = call("out_proj", functional.linear, joined, out_proj_weight, out_proj_bias)
    shown = (attention.mean(1) if average_attn_weights else attention) if need_weights else None
    if not batched:
        output = call("", torch.Tensor.squeeze, output, 1)
        shown = None if shown is None else shown.squeeze(0)
    return output, shown


def _heads(call: Call, x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(batch, heads, length, size)."""
    split = call("", torch.Tensor.reshape, x, (*x.shape[:-1], num_heads, x.shape[-1] // num_heads))
    return call("", torch.Tensor.permute, split, 1, 2, 0, 3)


def _mask(attn_mask: torch.Tensor | None, padding: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor | None:
    """One mask of floats to add; true entries of the given ones are left out."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim < 3 else attn_mask.reshape(scores.size(0), -1, *attn_mask.shape[1:]))
    if padding is not None:
        masks.append(padding[:, None, None, :])
    added = [_as_floats(mask, scores) if mask.dtype is torch.bool else mask for mask in masks]
    return sum(added[1:], added[0]) if added else None


def _as_floats(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)


PARTS: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.scaled_dot_product_attention: scaled_dot_product,
    functional.multi_head_attention_forward: multi_head,
}
"""The functions that are computed by their parts."""


def has_parts(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call can be computed in parts: not attention with added keys and values, nor a call it would refuse."""
    if function is not functional.multi_head_attention_forward:
        return function in PARTS
    added = (*args[7:10], kwargs.get("static_k"), kwargs.get("static_v"))
    refused = kwargs.get("is_causal", False) and kwargs.get("attn_mask") is None
    return not refused and not any(each is not None and each is not False for each in added)


class AttentionInParts:
    """Inside this context, PyTorch computes attention with functions that quantizers see.

    Without gradients, PyTorch has one fast function for a whole layer. It does not use it under a function mode, but
    the compiler ignores modes there. The switch is global: the first forward turns it off, the last one restores it.
    Compiled code has it off while it is traced.
    """

    lock = threading.Lock()
    open = 0
    before = True

    def __enter__(self) -> None:
        """Turn that function off."""
        self.traced = torch.compiler.is_compiling()
        if self.traced:
            self.before = mha._is_fastpath_enabled  # the compiler refuses the function that sets it
            mha._is_fastpath_enabled = False
            return
        with AttentionInParts.lock:
            if not AttentionInParts.open:
                AttentionInParts.before = mha.get_fastpath_enabled()
                mha.set_fastpath_enabled(False)
            AttentionInParts.open += 1

    def __exit__(self, *error: object) -> None:
        """Turn it on again, if it was on, when the last forward ends."""
        if self.traced:
            mha._is_fastpath_enabled = self.before
            return
        with AttentionInParts.lock:
            AttentionInParts.open -= 1
            if not AttentionInParts.open:
                mha.set_fastpath_enabled(AttentionInParts.before)
