"""What PyTorch's modules and functions are, in the words of recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_WEIGHTS: tuple[tuple[Any, str, str, int], ...] = (  # classes, kind, weights, axis of their channels
    (CONVOLUTIONS, "conv", "weight", 0),
    (TRANSPOSED, "conv_transpose", "weight", 1),
    (nn.Linear, "linear", "weight", 0),
    ((nn.Embedding, nn.EmbeddingBag), "embedding", "weight", 1),
    (nn.MultiheadAttention, "attention", "", 0),
    (nn.RNNCellBase, "recurrent", "weight_ih weight_hh", 0),
)
GIVES_TUPLE = (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention)  # whose first item is the output
_FILES = {  # by the file of torch.nn.modules that defines a class
    "activation": "activation",
    "batchnorm": "norm",
    "instancenorm": "norm",
    "normalization": "norm",
    "pooling": "pool",
    "upsampling": "pool",
    "rnn": "recurrent",
}
_NAMES = {  # of functions, operators and methods
    "activation": "relu relu_ relu6 gelu silu hardswish hardsigmoid sigmoid tanh softmax leaky_relu elu selu celu mish "
    "softplus softsign hardtanh hardtanh_ prelu rrelu glu log_softmax logsigmoid hardshrink softshrink tanhshrink",
    "add": "add iadd sub isub add_ sub_ sum",
    "mul": "mul imul mul_ truediv div",
    "concat": "cat concat stack",
    "matmul": "matmul bmm einsum baddbmm addmm scaled_dot_product_attention",
    "pool": "mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "interpolate upsample",
    "norm": "layer_norm batch_norm group_norm instance_norm rms_norm",
    "conv": "conv1d conv2d conv3d",
    "conv_transpose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear",
}
_KEEPS = (  # functions, operators and methods whose results hold no new values, or no values of a tensor
    "flatten reshape view transpose permute t contiguous squeeze unsqueeze expand expand_as repeat repeat_interleave "
    "tile chunk split unbind unflatten swapaxes movedim roll flip gather index_select narrow select masked_fill where "
    "pad clone detach to float half bfloat16 long int bool type_as dropout dropout1d dropout2d dropout3d alpha_dropout "
    "pixel_shuffle pixel_unshuffle channel_shuffle max_pool1d max_pool2d max_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d max amax min amin maximum minimum neg abs clamp clip embedding one_hot "
    "argmax argmin size dim numel getitem getattr setitem arange zeros ones full eq ne lt le gt ge floordiv mod "
    "masked_scores mean_of_heads"
)
_KIND_OF_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_KEEPING = frozenset(_KEEPS.split())

WHY_FLOAT = {
    "attention": "reads its weights itself; not taken apart with bias_k, bias_v, add_zero_attn or a class of its own"
}


def kind_of_module(module: nn.Module) -> str:
    """Such as ``conv``; ``other`` for what recipes have no word for.

    Example:
        >>> kind_of_module(nn.Conv2d(4, 4, 3, groups=4)), kind_of_module(nn.GELU()), kind_of_module(nn.Dropout())
        ('depthwise_conv', 'activation', 'other')
    """
    for classes, kind, _, _ in _WEIGHTS:
        if isinstance(module, classes):
            depthwise = kind == "conv" and 1 < module.groups == module.in_channels
            return "depthwise_conv" if depthwise else kind
    if type(module).__name__.endswith("Activation"):  # as transformers calls its own
        return "activation"
    for base in type(module).__mro__:
        package, _, file = base.__module__.rpartition(".")
        if package == "torch.nn.modules":
            return _FILES.get(file, "other")
    return "other"


def weights_of(module: nn.Module) -> tuple[tuple[str, ...], int]:
    """Names of the weights that can be quantized, and the axis of their channels.

    Example:
        >>> weights_of(nn.GRU(2, 3)), weights_of(nn.Embedding(5, 2)), weights_of(nn.ReLU())
        ((('weight_ih_l0', 'weight_hh_l0'), 0), (('weight',), 1), ((), 0))
    """
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight")), 0
    for classes, _, names, axis in _WEIGHTS:
        if isinstance(module, classes):
            return tuple(name for name in names.split() if getattr(module, name, None) is not None), axis
    return (), 0


def kind_of_function(function: Callable[..., Any] | str) -> str:
    """Of a function, an operator or the name of a method.

    Example:
        >>> kind_of_function(nn.functional.relu), kind_of_function("flatten")
        ('activation', 'other')
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    return _KIND_OF_NAME.get(name, "other")


def keeps_values(function: str) -> bool:
    """Whether the results of a function are values of its inputs, so that there is nothing new to quantize.

    Example:
        >>> keeps_values("reshape"), keeps_values("exp")
        (True, False)
    """
    return function in _KEEPING
