"""The project's enumerations. Methods and targets of quantization are those of mct-quantizers."""

from __future__ import annotations

from enum import Enum


class TrainingMethod(str, Enum):
    """How a shipped quantizer learns. Members equal their strings.

    The set is open: ``identifier`` in ``@mark_quantizer`` may be any value, so your own method only needs
    its own string.

    Examples:
        >>> from trainable_quantizers_core import Recipe
        >>> Recipe({"training_method": "STE"}).weights.training_method
        <TrainingMethod.STE: 'STE'>
        >>> TrainingMethod("LSQ") == "LSQ"
        True
    """

    STE = "STE"
    """Straight-through estimator: parameters learn from saturated values alone."""
    LSQ = "LSQ"
    """Learned step size (Esser et al. 2020, arXiv 1902.08153): parameters learn from rounding errors too."""
    ADAROUND = "AdaRound"
    """Soft rounding (Nagel et al. 2020, arXiv 2004.10568): each weight learns whether it is rounded down or up."""
    DQA = "DQA"
    """Quantization with attention (Boukli Hacene et al. 2021, arXiv 2103.13322): each weight learns how many bits it
    needs."""


class VariableGroup(Enum):
    """Groups of a quantizer's variables, which an optimizer can treat differently.

    ``quantizer.get_trainable_variables(VariableGroup.QPARAMS)`` gives the variables of a group.
    """

    WEIGHTS = 0
    """The quantized weights, or what is added to them."""
    QPARAMS = 1
    """Quantization parameters: thresholds, range ends, tables, and the attention of candidates."""


class ThresholdDomain(str, Enum):
    """The domain in which the variable of a threshold t is trained.

    Examples:
        >>> from trainable_quantizers_core import Recipe
        >>> Recipe({"threshold_domain": "log2"}).weights.threshold_domain
        <ThresholdDomain.LOG2: 'log2'>
    """

    LINEAR = "linear"
    """t itself."""
    LOG2 = "log2"
    """log2 t, so that an optimizer moves t by factors (Jain et al. 2019, arXiv 1903.08066)."""


class Granularity(str, Enum):
    """Which elements of a weight share one set of quantization parameters.

    Examples:
        >>> from trainable_quantizers_core import WeightsScheme, weights_parameters
        >>> for granularity in Granularity:
        ...     scheme = WeightsScheme(granularity=granularity, calibration="min_max")
        ...     print(weights_parameters([[0.5, -1.0], [3.0, 0.1]], scheme, channel_axis=0).params)
        {'threshold': 4.0}
        {'threshold': array([1., 4.], dtype=float32)}
    """

    PER_TENSOR = "per_tensor"
    """The whole tensor."""
    PER_CHANNEL = "per_channel"
    """Each output channel has its own; the layer determines the channel axis."""


class BiasGrid(str, Enum):
    """The grid on which the bias of a layer lies."""

    ACCUMULATOR = "accumulator"
    """On multiples of the step of its input times the step of its weights, as in an integer accelerator."""
    FLOAT = "float"
    """Anywhere."""


class CalibrationMethod(str, Enum):
    """How calibration derives initial quantization parameters from data.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core import ActivationsScheme, TensorStatistics, activation_parameters
        >>> statistics = TensorStatistics()
        >>> statistics.update([*np.linspace(-1, 1, 1000), 20.0])  # one outlier
        >>> for method in CalibrationMethod:
        ...     scheme = ActivationsScheme(method="symmetric", num_bits=4, calibration=method, percentile=99)
        ...     print(method.value, round(activation_parameters(statistics, scheme).params["threshold"], 1))
        min_max 20.0
        percentile 1.0
        mse 7.1
        lsq 3.1
    """

    MIN_MAX = "min_max"
    """The range holds every value."""
    PERCENTILE = "percentile"
    """The range holds a given share of the values, so that single outliers do not stretch it."""
    MSE = "mse"
    """The range with the least squared error, rounding and clipping taken together."""
    LSQ = "lsq"
    """Step 2·mean|x|/sqrt(highest) (Esser et al. 2020, arXiv 1902.08153); of a uniform range, the scale and offset with
    the least squared error (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576)."""


class RoundingRule(str, Enum):
    """How ties, values half way between two levels, are rounded.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_core.integer.rounding import round_floats
        >>> for rule in RoundingRule:
        ...     print(rule.value, round_floats(np.float32([-1.5, 0.5, 1.5]), rule).tolist())
        half_even [-2.0, 0.0, 2.0]
        half_up [-1.0, 1.0, 2.0]
        half_away [-2.0, 1.0, 2.0]
    """

    HALF_EVEN = "half_even"
    """The even one: PyTorch, onnxruntime, XNNPACK."""
    HALF_UP = "half_up"
    """The upper one: TensorFlow's fake quantization, and hardware that adds a half and shifts."""
    HALF_AWAY = "half_away"
    """The one farther from zero: LiteRT's QUANTIZE and reference kernels."""


class RescaleRule(str, Enum):
    """How integers are rescaled to another grid if the ratio of the two steps is not a power of two.

    Examples:
        >>> from trainable_quantizers_core.integer.rescale import multiplier
        >>> multiplier(0.3, 24, RescaleRule.FLOAT32)
        (array(0.3, dtype=float32),)
        >>> multiplier(0.3, 24, RescaleRule.FIXED_POINT)  # 1288490189·2^-32
        (array(1288490189), array(32))
    """

    FLOAT32 = "float32"
    """Multiplied in float32 and rounded: the integer kernels of onnxruntime."""
    FIXED_POINT = "fixed_point"
    """Multiplied by an integer of 31 bits and shifted, rounded once: LiteRT and CMSIS-NN with single rounding."""
