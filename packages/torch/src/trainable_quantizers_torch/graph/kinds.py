"""Classifies PyTorch functions and modules by the terms that recipes use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainable_quantizers_torch.layers.mixed import classes_of

CLIPPING = "relu relu6 leaky_relu prelu rrelu hardtanh threshold clamp clip clamp_min clamp_max"
_NAMES = {  # of functions, operators and methods, without the underscores of in-place and reflected forms
    "activation": f"{CLIPPING} gelu silu hardswish hardsigmoid sigmoid tanh softmax elu selu celu mish softplus "
    "softsign glu log_softmax logsigmoid hardshrink softshrink tanhshrink softmin gumbel_softmax",
    "add": "add sub rsub sum subtract addcmul addcdiv lerp",
    "mul": "mul multiply truediv div divide true_divide",
    "concat": "cat concat concatenate stack hstack vstack dstack",
    "matmul": "matmul mm bmm mv dot einsum tensordot baddbmm addmm addbmm addmv",
    "pool": "mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "interpolate upsample grid_sample lp_pool1d lp_pool2d roi_align nanmean",
    "norm": "layer_norm batch_norm group_norm instance_norm rms_norm local_response_norm normalize",
    "conv": "conv1d conv2d conv3d",
    "conv_transpose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear bilinear",
    "embedding": "embedding embedding_bag",
    "attention": "multi_head_attention_forward scaled_dot_product_attention",
    "recurrent": "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
}
_IDENTITIES = (  # whose result is their input when a model is deployed
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout contiguous clone detach "
    "to float half bfloat16 double type type_as cpu cuda requires_grad positive pos copy lift_fresh"
)
_MOVES = (  # whose results hold values of their inputs, and no others
    "flatten reshape view view_as reshape_as transpose permute t adjoint swapaxes swapdims movedim moveaxis squeeze "
    "unsqueeze expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile chunk split "
    "split_with_sizes tensor_split unbind unflatten unfold roll rot90 flip fliplr flipud gather take take_along_dim "
    "index_select narrow select masked_fill masked_scatter masked_select where scatter index_put index_copy index_fill "
    "index_add slice_scatter select_scatter pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle "
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_unpool2d "
    "fractional_max_pool2d max amax min amin maximum minimum neg negative abs topk sort kthvalue median cummax "
    "cummin getitem setitem get tril triu diagonal diag nan_to_num fill zero atleast_1d atleast_2d atleast_3d "
    "as_strided ravel fold nested_tensor pack_padded_sequence resize masked_scores nonzero"
)
_LOSSES = "cross_entropy mse_loss l1_loss nll_loss kl_div ctc_loss smooth_l1_loss huber_loss binary_cross_entropy " + (
    "binary_cross_entropy_with_logits sigmoid_focal_loss cosine_embedding_loss margin_ranking_loss soft_margin_loss"
)
_RANDOMS = "rand randn randint randperm rand_like randn_like randint_like bernoulli normal uniform exponential " + (
    "multinomial poisson geometric random log_normal cauchy"
)
_FACTORIES = "new_empty new_zeros new_ones new_full new_tensor empty_like zeros_like ones_like full_like"
_KIND_OF_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_KIND_OF_NAME |= dict.fromkeys((*_IDENTITIES.split(), *_MOVES.split(), *_LOSSES.split()), "other")
_CLIPPING, _IDENTITY, _LOSS, _RANDOM, _FACTORY = (
    frozenset(names.split()) for names in (CLIPPING, _IDENTITIES, _LOSSES, _RANDOMS, _FACTORIES)
)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTS: tuple[tuple[Any, str, str, int], ...] = (  # classes, kind, weights, axis of their channels
    (CONVOLUTIONS, "conv", "weight", 0),
    (TRANSPOSED, "conv_transpose", "weight", 1),
    ((nn.Linear, nn.Bilinear), "linear", "weight", 0),
    ((nn.Embedding, nn.EmbeddingBag), "embedding", "weight", 1),
    (nn.RNNCellBase, "recurrent", "weight_ih weight_hh", 0),
)


@functools.cache
def name_of(function: Callable[..., Any]) -> str:
    """The plain name of a function, operator or method: without ``_`` of in-place and ``r`` or ``i`` of operators.

    Examples:
        >>> name_of(torch.Tensor.add_), name_of(torch.Tensor.__rsub__), name_of(nn.functional.relu)
        ('add', 'sub', 'relu')
    """
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":  # an attribute of tensors, such as .T
        return "get"
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        return name[1:] if name[0] in "ri" and name[1:] in _KIND_OF_NAME else name
    if name == "fn" or name.startswith("_"):  # functions that PyTorch chooses among by their arguments
        name = torch.overrides.resolve_name(function).rpartition(".")[2] if name == "fn" else name.strip("_")
    return name.rstrip("_")


def kind_of(function: Callable[..., Any]) -> str:
    """The kind of a function, such as ``conv``; ``other`` if it moves values, ``function`` if recipes have no word.

    Examples:
        >>> kind_of(nn.functional.relu), kind_of(torch.flatten), kind_of(torch.exp)
        ('activation', 'other', 'function')
    """
    return _KIND_OF_NAME.get(name_of(function), "function")


def clips(function: Callable[..., Any]) -> bool:
    """Whether an activation function is piecewise linear, like ReLU."""
    return name_of(function) in _CLIPPING


def scales(function: Callable[..., Any]) -> bool:
    """Whether f(s·x) = s·f(x) for s > 0.

    Examples:
        >>> scales(nn.functional.relu), scales(nn.functional.relu6)
        (True, False)
    """
    return name_of(function) in ("relu", "leaky_relu", "prelu")


def is_identity(function: Callable[..., Any]) -> bool:
    """Whether the result is the input when the model is deployed."""
    return name_of(function) in _IDENTITY


def is_loss(function: Callable[..., Any]) -> bool:
    """Whether it compares an output with a target."""
    return name_of(function) in _LOSS


def is_random(function: Callable[..., Any]) -> bool:
    """Whether it makes random values."""
    return name_of(function) in _RANDOM


def is_factory(function: Callable[..., Any]) -> bool:
    """Whether it uses only the shape and type of a tensor."""
    return name_of(function) in _FACTORY


def is_standard(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own that holds no others: it is one layer.

    Examples:
        >>> is_standard(nn.ReLU()), is_standard(nn.Sequential())
        (True, False)
    """
    own = classes_of(module)[-1].__module__.startswith("torch.") and not isinstance(module, _CONTAINERS)
    return own and (not set(module._modules) - {"parametrizations"} or isinstance(module, nn.MultiheadAttention))


def class_name(module: nn.Module) -> str:
    """The name of the module's own class."""
    return classes_of(module)[-1].__name__


def counts_as_one(module: nn.Module) -> bool:
    """Whether a module counts as one operation, regardless of its inside: a custom norm or activation function."""
    if module._modules or is_standard(module) or isinstance(module, nn.modules.batchnorm._NormBase):
        return False
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        return False
    return kind_of_whole(module) == "norm" or (not module._parameters and _named_like(module, _ACTIVATION_LIKE))


def kind_of_whole(module: nn.Module) -> str:
    """The kind of a module that counts as one operation."""
    return "norm" if _named_like(module, _NORM_LIKE) else "activation"


def _named_like(module: nn.Module, words: tuple[str, ...]) -> bool:
    return any(word in class_name(module).lower() for word in words)


_NORM_LIKE = ("norm",)
_ACTIVATION_LIKE = ("activation", "gelu", "swish", "silu", "mish", "sigmoid")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_container(module: nn.Module) -> bool:
    """Whether a module's forward may iterate over all modules that it holds."""
    return isinstance(module, _CONTAINERS)


def kind_of_module(module: nn.Module) -> str:
    """The kind of a layer with weights; ``other`` for the rest.

    Examples:
        >>> kind_of_module(nn.Conv2d(4, 4, 3, groups=4)), kind_of_module(nn.GRU(2, 3)), kind_of_module(nn.ReLU())
        ('depthwise_conv', 'recurrent', 'other')
    """
    if isinstance(module, nn.RNNBase):
        return "recurrent"
    for classes, kind, _, _ in _WEIGHTS:
        if isinstance(module, classes):
            depthwise = kind == "conv" and 1 < module.groups == module.in_channels
            return "depthwise_conv" if depthwise else kind
    return "other"


def weights_of(module: nn.Module) -> tuple[tuple[str, ...], int]:
    """Names of the weights that can be quantized, and the axis of their channels.

    Examples:
        >>> weights_of(nn.GRU(2, 3)), weights_of(nn.Embedding(5, 2)), weights_of(nn.ReLU())
        ((('weight_ih_l0', 'weight_hh_l0'), 0), (('weight',), 1), ((), 0))
    """
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight")), 0
    for classes, _, names, axis in _WEIGHTS:
        if isinstance(module, classes):
            return tuple(name for name in names.split() if module._parameters.get(name) is not None), axis
    return (), 0
