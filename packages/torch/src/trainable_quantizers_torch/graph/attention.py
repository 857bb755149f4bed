"""Multi-head attention as layers and operations that can each be quantized."""

from __future__ import annotations

import math

import torch
from torch import fx, nn
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.graph.trace import replace_everywhere


class AttentionProjection(nn.Linear):
    """A linear layer of an attention, which recipes find as ``attention`` too."""


class MaskedSoftmax(nn.Softmax):
    """A softmax that gives zeros, and zero gradient, where all scores are masked, as the fused attention does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The attention weights."""
        masked = (input == -math.inf).all(self.dim, keepdim=True)
        return super().forward(input.masked_fill(masked, 0.0)).masked_fill(masked, 0.0)


class UnfusedMultiheadAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, by four linear layers, two products and a softmax of their own.

    o = out_proj(softmax(q·kᵀ/sqrt(d) + mask)·v), in each head; q = q_proj(query), k = k_proj(key), v = v_proj(value).
    The fused module reads its weights itself, all at once, so that nothing inside it could be quantized.

    Args:
        fused: Gives its weights; ``replaces`` says which can be.
        parts: Of packed weights, for modules that share them.

    Example:
        >>> fused = nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(3, 5, 8)
        >>> torch.allclose(UnfusedMultiheadAttention(fused)(x, x, x)[0], fused(x, x, x)[0], atol=1e-6)
        True
    """

    in_proj_bias = None  # what nn.TransformerEncoderLayer looks at before it takes a short cut past the layers

    def __init__(self, fused: nn.MultiheadAttention, parts: _Parts | None = None) -> None:
        super().__init__()
        for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "batch_first", "dropout"):
            setattr(self, name, getattr(fused, name))
        parts = _Parts() if parts is None else parts
        weights = [fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight]
        weights = weights if fused.in_proj_weight is None else parts.of(fused.in_proj_weight)
        biases = [None] * 3 if fused.in_proj_bias is None else parts.of(fused.in_proj_bias)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)
        self.softmax, self.drop = MaskedSoftmax(-1), nn.Dropout(fused.dropout)
        self.train(fused.training)

    @staticmethod
    def replaces(module: nn.Module) -> bool:
        """Whether it can stand for a module: not with bias_k, bias_v, add_zero_attn or weights that are computed."""
        plain = type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return plain and all(name in module._parameters for name in names)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(output, attention weights or None), as ``nn.MultiheadAttention``; ``is_causal`` is a hint there.

        Raises:
            QuantizerError: ``is_causal`` without a mask.
        """
        if is_causal and attn_mask is None:
            advice = "give nn.Transformer.generate_square_subsequent_mask(length)"
            raise invalid("MultiheadAttention", "attn_mask", "given with is_causal", attn_mask, advice)
        q, k, v = (self._heads(x) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        scores = masked_scores(torch.matmul(q, k.transpose(-2, -1)), q, attn_mask, key_padding_mask)
        weights = self.drop(self.softmax(scores))
        output = torch.matmul(weights, v)
        output = output.transpose(-3, -2) if self.batch_first else output.movedim(-2, 0)
        output = self.out_proj(output.flatten(-2))
        if not need_weights:
            return output, None
        return output, mean_of_heads(weights) if average_attn_weights else weights

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(..., heads, length, size), with and without a batch."""
        x = x.unflatten(-1, (self.num_heads, -1))
        return x.transpose(-3, -2) if self.batch_first else x.movedim(0, -2)


@fx.wrap
def masked_scores(
    scores: torch.Tensor, q: torch.Tensor, attn_mask: torch.Tensor | None, key_padding_mask: torch.Tensor | None
) -> torch.Tensor:
    """Scores as the softmax takes them: divided by sqrt(d), minus infinity where a mask is true, plus one of floats."""
    scores = scores * (1 / math.sqrt(q.shape[-1]))
    if attn_mask is not None:
        scores = _masked(scores, attn_mask if attn_mask.ndim < 3 else attn_mask.reshape(scores.shape))
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask[..., None, None, :])
    return scores


@fx.wrap
def mean_of_heads(weights: torch.Tensor) -> torch.Tensor:
    """The attention weights that a layer shows."""
    return weights.mean(-3)


def _masked(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


class _Parts:
    """The three parts of packed parameters, the same ones whenever a parameter is met again."""

    def __init__(self) -> None:
        self._made: dict[nn.Parameter, list[nn.Parameter]] = {}

    def of(self, packed: nn.Parameter) -> list[nn.Parameter]:
        if packed not in self._made:
            parts = packed.detach().clone().chunk(3)
            self._made[packed] = [nn.Parameter(part.clone(), packed.requires_grad) for part in parts]
        return self._made[packed]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    linear = AttentionProjection(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight, linear.bias = weight, bias
    return linear


def unfuse_attention(model: nn.Module) -> nn.Module:
    """``model``, in place, without fused attention where that can be replaced, nor short cuts past its layers."""
    parts = _Parts()
    for module in list(model.modules()):
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if UnfusedMultiheadAttention.replaces(module):
            unfused = UnfusedMultiheadAttention(module, parts)
            replace_everywhere(model, module, unfused)
            model = unfused if model is module else model
    return model
