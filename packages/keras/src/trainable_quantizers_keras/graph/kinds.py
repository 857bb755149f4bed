"""Classifies Keras layers and operations by the terms that recipes use."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import Call, arguments_of
from trainable_quantizers_keras.layers.copies import OF_KERAS

_CLASSES: tuple[tuple[str, str, dict[str, int]], ...] = (  # of Keras, kind, weights and the axis of their channels
    ("DepthwiseConv1D DepthwiseConv2D", "depthwise_conv", {"depthwise_kernel": -2, "kernel": -2}),
    ("SeparableConv1D SeparableConv2D", "conv", {"depthwise_kernel": -2, "pointwise_kernel": -1}),
    ("Conv1DTranspose Conv2DTranspose Conv3DTranspose", "conv_transpose", {"kernel": -2}),
    ("Conv1D Conv2D Conv3D", "conv", {"kernel": -1}),
    ("Dense EinsumDense", "linear", {"kernel": -1}),
    ("Embedding", "embedding", {"embeddings": -1}),
    ("SimpleRNNCell LSTMCell GRUCell ConvLSTMCell", "recurrent", {"kernel": -1, "recurrent_kernel": -1}),
    ("RNN Bidirectional", "recurrent", {}),
    ("MultiHeadAttention GroupQueryAttention GroupedQueryAttention Attention AdditiveAttention", "attention", {}),
)
_OF_CLASS = {name: (kind, weights) for names, kind, weights in _CLASSES for name in names.split()}
_NAMES = {  # of layers and operations, in lower case without underscores
    "activation": "activation relu relu6 leakyrelu prelu elu selu celu gelu glu silu swish mish sigmoid logsigmoid "
    "hardsigmoid hardsilu hardswish tanh hardtanh tanhshrink softmax logsoftmax softplus softsign softshrink "
    "hardshrink thresholdedrelu squareplus sparseplus sparsemax",
    "add": "add addv2 addn subtract sub average sum reducesum",
    "mul": "multiply mul divide truediv truedivide realdiv rescaling",
    "concat": "concatenate concat concatv2 stack",
    "conv": "conv conv1d conv2d conv3d convolution",
    "depthwise_conv": "depthwiseconv depthwiseconv2d",
    "conv_transpose": "convtranspose conv1dtranspose conv2dtranspose conv3dtranspose",
    "matmul": "matmul dot einsum tensordot",
    "pool": "averagepooling1d averagepooling2d averagepooling3d averagepool globalaveragepooling1d "
    "globalaveragepooling2d globalaveragepooling3d mean reducemean upsampling1d upsampling2d upsampling3d resizing",
    "norm": "batchnormalization layernormalization groupnormalization rmsnormalization unitnormalization normalization",
}
_KEEPS = (  # what gives no new values, or no values of a tensor
    "inputlayer flatten reshape permute transpose repeatvector repeat tile dropout spatialdropout1d spatialdropout2d "
    "spatialdropout3d alphadropout gaussiandropout gaussiannoise activityregularization masking identity zeropadding1d "
    "kerasactivityregularization zeropadding2d zeropadding3d cropping1d cropping2d cropping3d pad maxpool "
    "maxpooling1d maxpooling2d maxpooling3d "
    "globalmaxpooling1d globalmaxpooling2d globalmaxpooling3d maximum minimum max min reducemax reducemin getitem "
    "slicingoplambda stridedslice slice squeeze expanddims split unstack gather take where cast shape stopgradient "
    "abs absolute negative neg clip clipbyvalue roll flip reverse broadcastto swapaxes moveaxis argmax argmin "
    "onehot equal notequal less lessequal greater greaterequal size range arange zeros ones zeroslike oneslike full"
)
_CLIPS = ("relu", "relu6", "leakyrelu", "prelu", "thresholdedrelu", "hardtanh", "clip", "clipbyvalue")
_IDENTITIES = (
    *("dropout", "spatialdropout1d", "spatialdropout2d", "spatialdropout3d", "alphadropout", "gaussiandropout"),
    *("gaussiannoise", "identity", "activityregularization", "kerasactivityregularization"),
)
_PLAIN = frozenset(
    "build get_config from_config compute_output_shape compute_output_spec __init__ __module__ __doc__ __qualname__ "  # noqa: SIM905
    "__firstlineno__ __static_attributes__ __dict__ __weakref__ __annotations__".split()
)
"""Attributes that a class may define and still compute the same as its base."""
_KIND_OF_WORD = {word: kind for kind, words in _NAMES.items() for word in words.split()}
_KEEPING = frozenset(_KEEPS.split())


_FUNCTIONS = ("TFOpLambda", "KerasTensorFlowFunction")


def word_of(layer: Any) -> str:
    """The name of its class, or of the function that a layer of Keras 2 stands for.

    Examples:
        >>> word_of(keras.layers.ReLU())
        'ReLU'
    """
    name = type(layer).__name__
    if name in _FUNCTIONS:
        return str(layer.get_config()["function"]).rpartition(".")[2]
    return "einsum" if name == "KerasEinsum" else name


def draws(layer: Any) -> bool:
    """Whether it is a function of TensorFlow that gives other numbers each time."""
    function = str(layer.get_config()["function"]) if type(layer).__name__ in _FUNCTIONS else ""
    return ("random" in function or "dropout" in function) and "stateless" not in function


def kind_of(layer: Any) -> str:
    """The kind of a layer, such as ``conv``; ``other`` if recipes have no word for it.

    Examples:
        >>> kind_of(keras.layers.Dense(2)), kind_of(keras.layers.ReLU()), kind_of(keras.layers.Flatten())
        ('linear', 'activation', 'other')
    """
    if kind := _of_class(layer)[0]:
        grouped = kind == "conv" and getattr(layer, "groups", 1) > 1 and layer.built and layer.kernel.shape[-2] == 1
        return "depthwise_conv" if grouped else kind
    if isinstance(layer, keras.layers.Activation) and layer.get_config()["activation"] == "linear":
        return "other"
    return _KIND_OF_WORD.get(_plain(word_of(layer)), "other")


def weights_of(layer: Any) -> dict[str, int]:
    """Names of the weights that can be quantized, of a layer of Keras that is built, and the axes of their channels.

    Examples:
        >>> layer = keras.layers.SeparableConv2D(4, 3)
        >>> layer.build((None, 8, 8, 3))
        >>> weights_of(layer)
        {'depthwise_kernel': -2, 'pointwise_kernel': -1}
    """
    return {name: axis for name, axis in _of_class(layer)[1].items() if has_weight(layer, name)}


def _of_class(layer: Any) -> tuple[str, dict[str, int]]:
    """Kind and weights by the nearest class of Keras that has them; some of these classes have no public name."""
    classes = [cls for cls in type(layer).__mro__ if cls.__module__.startswith(OF_KERAS)]
    return next((_OF_CLASS[cls.__name__] for cls in classes if cls.__name__ in _OF_CLASS), ("", {}))


def has_weight(layer: Any, name: str) -> bool:
    """Whether a layer itself holds a weight of real numbers by this name."""
    held = {id(weight) for weight in getattr(layer, "weights", ())}  # operations of Keras 3 have none
    slots = [vars(layer).get(slot) for slot in (name, f"_{name}")]
    return any(id(value) in held and "float" in str(value.dtype) for value in slots)


def has_bias(layer: Any) -> bool:
    """Whether a layer adds a bias, one number per channel, to its sums of products, and then calls its activation.

    Examples:
        >>> layer = keras.layers.Dense(2)
        >>> layer.build((None, 3))
        >>> has_bias(layer), has_bias(keras.layers.ReLU())
        (True, False)
    """
    kind = kind_of(layer)
    if kind not in ("conv", "depthwise_conv", "conv_transpose", "linear") or not follows_keras(layer):
        return False
    return has_weight(layer, "bias") and len(layer.bias.shape) == 1 and callable(layer.activation)


def keeps_values(layer: Any) -> bool:
    """Whether the output holds values of the input, so that there is nothing new to quantize."""
    return _plain(word_of(layer)) in _KEEPING


def _plain(word: str) -> str:
    return word.replace("_", "").lower()


def clips(layer: Any) -> bool:
    """Whether a layer is a piecewise linear activation function, like ReLU.

    Examples:
        >>> clips(keras.layers.Activation("relu")), clips(keras.layers.Activation("tanh"))
        (True, False)
    """
    return clips_by(layer.activation if isinstance(layer, keras.layers.Activation) else layer)


def clips_by(activation: Any) -> bool:
    """Whether a function or layer is piecewise linear, like ReLU.

    Examples:
        >>> clips_by(keras.activations.relu)
        True
    """
    named = not isinstance(activation, keras.layers.Layer) and hasattr(activation, "__name__")
    return _plain(activation.__name__ if named else word_of(activation)) in _CLIPS


def follows_keras(layer: Any) -> bool:
    """Whether a layer computes as the class of Keras does that it is of, or derives from.

    Examples:
        >>> own = type("Own", (keras.layers.Layer,), {"__module__": "mine"})
        >>> follows_keras(keras.layers.Dense(2)), follows_keras(own())
        (True, False)
    """
    own: list[type] = []
    for cls in type(layer).__mro__:
        if cls.__module__.startswith(OF_KERAS):
            changed = {name for each in own for name in vars(each) if hasattr(cls, name)} - _PLAIN
            general = cls in (keras.layers.Layer, keras.Model, keras.layers.Wrapper)
            return not own or not (general or changed)
        own.append(cls)
    return False


def is_identity(layer: Any) -> bool:
    """Whether its result is its input when the model is deployed."""
    linear = isinstance(layer, keras.layers.Activation) and getattr(layer.activation, "__name__", "") == "linear"
    return linear or _plain(word_of(layer)) in _IDENTITIES


def folds(layer: Any) -> bool:
    """Whether a layer is a batch norm that can fold, or can take one in: of Keras itself, over the last axis."""
    if not follows_keras(layer):
        return False  # it may do anything
    if isinstance(layer, keras.layers.BatchNormalization):
        axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
        return axis in (-1, len(layer.get_build_config()["input_shape"]) - 1)
    return _ends_with(layer, ("linear",))


def scales(layer: Any) -> bool:
    """Whether channels of the result scale with the weights by positive factors, or with the input of a ReLU.

    Examples:
        >>> scales(keras.layers.Dense(2, "relu")), scales(keras.layers.ReLU()), scales(keras.layers.ReLU(6.0))
        (True, True, False)
    """
    if not follows_keras(layer):
        return False
    if kind_of(layer) != "activation":
        return _ends_with(layer, ("linear", "relu"))
    config = layer.get_config()
    bounded = config.get("max_value") is not None or config.get("threshold")
    return config.get("activation", _plain(word_of(layer))) in ("relu", "leakyrelu", "prelu") and not bounded


def _ends_with(layer: Any, activations: tuple[str, ...]) -> bool:
    """Whether a layer has one channel of sums for each item of its bias, and one of some activation functions."""
    given = layer.get_config().get("activation", "linear") if hasattr(layer, "get_config") else None
    folding = kind_of(layer) in ("conv", "depthwise_conv", "conv_transpose", "linear")
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return folding and given in activations and last and type(layer).__name__ != "EinsumDense"


def weight_axis(call: Call, weight: Any, kind: str) -> int | None:
    """The channel axis of a weight that a function reads; None if it has none."""
    if kind in ("conv", "embedding"):
        return -1
    if kind in ("depthwise_conv", "conv_transpose"):
        return -2
    args, kwargs = arguments_of(call.node)
    equation = kwargs.get("equation", kwargs.get("subscripts", args[0] if args else None))
    if not isinstance(equation, str):
        config = call.layer.get_config() if hasattr(call.layer, "get_config") else {}
        equation = getattr(call.layer, "subscripts", config.get("subscripts"))
    if isinstance(equation, str) and "->" in equation:
        terms, result = equation.replace(" ", "").split("->")
        others = terms.split(",")
        ours = next((term for term in reversed(others) if len(term) == len(weight.shape)), "")
        rest = "".join(term for term in others if term != ours)
        free = [at for at, letter in enumerate(ours) if letter in result and letter not in rest]
        return free[-1] - len(ours) if len(free) == 1 else None
    if len(weight.shape) != 2:
        return None
    return -2 if kwargs.get("transpose_b") else -1
