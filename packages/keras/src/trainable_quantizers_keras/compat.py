"""The names of the Model Compression Toolkit's ``trainable_infrastructure`` for Keras, on this package's classes.

See docs/migration-mct.md. The functions have the signatures that the toolkit's have, in both frameworks, and compute
the contract: their outputs and gradients are those of the quantizers of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.compat import (
    FQ_MAX,
    FQ_MIN,
    GROUP,
    THRESHOLD_TENSOR,
    VAR,
    WEIGHTS_QUANTIZATION_PARAMS,
    BaseLinearAnnealingScheduler,
    BaseTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    VariableGroup,
    channel_axis_of,
    full_grid,
    get_threshold_reshape_shape,
    get_total_grad_steps,
    get_trainable_quantizer_class,
)
from trainable_quantizers_core.constants import MIN_THRESHOLD
from trainable_quantizers_core.quantizer.base_config import TrainableQuantizerConfig, config_from_dict
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_keras.keras_version import full_precision
from trainable_quantizers_keras.kernels.effective import symmetric_range, uniform_range
from trainable_quantizers_keras.kernels.fake_quantize import fake_quantize
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper
from trainable_quantizers_keras.load_model import keras_load_quantized_model
from trainable_quantizers_keras.quantizer.activation_quantizers import (
    LSQSymmetricActivationTrainableQuantizer,
    LSQUniformActivationTrainableQuantizer,
    STESymmetricActivationTrainableQuantizer,
    STEUniformActivationTrainableQuantizer,
)
from trainable_quantizers_keras.quantizer.annealing import KerasLinearAnnealingScheduler
from trainable_quantizers_keras.quantizer.base_quantizer import (
    BaseKerasActivationTrainableQuantizer,
    BaseKerasTrainableQuantizer,
)

__all__ = [
    "FQ_MAX",
    "FQ_MIN",
    "GROUP",
    "THRESHOLD_TENSOR",
    "VAR",
    "WEIGHTS_QUANTIZATION_PARAMS",
    "BaseKerasActivationTrainableQuantizer",
    "BaseKerasTrainableQuantizer",
    "BaseLinearAnnealingScheduler",
    "BaseTrainableQuantizer",
    "KerasLinearAnnealingScheduler",
    "KerasTrainableQuantizationWrapper",
    "LSQSymmetricActivationTrainableQuantizer",
    "LSQUniformActivationTrainableQuantizer",
    "STESymmetricActivationTrainableQuantizer",
    "STEUniformActivationTrainableQuantizer",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "adjust_range_to_include_zero",
    "config_deserialization",
    "config_serialization",
    "get_threshold_reshape_shape",
    "get_total_grad_steps",
    "get_trainable_quantizer_class",
    "grad_scale",
    "keras_load_quantized_model",
    "ste_clip",
    "ste_round",
    "symmetric_lsq_quantizer",
    "symmetric_quantizer",
    "uniform_lsq_quantizer",
    "uniform_quantizer",
]


def config_serialization(quantization_config: TrainableQuantizerConfig) -> dict[str, Any]:
    """A configuration as JSON-compatible values, with nothing lost.

    Examples:
        >>> from trainable_quantizers_keras import QuantizationMethod
        >>> config = TrainableQuantizerActivationConfig(QuantizationMethod.UNIFORM, 8, {"threshold": 2.0}, True)
        >>> config_deserialization(config_serialization(config)) == config
        True
    """
    return quantization_config.to_dict()


def config_deserialization(in_config: Mapping[str, Any]) -> TrainableQuantizerConfig:
    """The configuration that ``config_serialization`` was called on.

    Raises:
        QuantizerError: something else.
    """
    return config_from_dict(in_config)


@tf.custom_gradient
def ste_round(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """round(x), halves to even; dL/dx = g.

    Examples:
        >>> ste_round(tf.constant([0.5, 1.5, float("inf")])).numpy().tolist()
        [0.0, 2.0, inf]
    """
    return tf.round(x), lambda g: g


def ste_clip(x: tf.Tensor, min_val: Any = -1.0, max_val: Any = 1.0) -> tf.Tensor:
    """clip(x, min_val, max_val); dL/dx = g where x lies in the closed range, else 0.

    Examples:
        >>> ste_clip(tf.constant([-1e9, -1.0, 0.25, 5.0])).numpy().tolist()
        [-1.0, -1.0, 0.25, 1.0]
    """
    return tf.clip_by_value(x, min_val, max_val)


def grad_scale(x: tf.Tensor, scale: Any = 1.0) -> tf.Tensor:
    """The identity x, bit for bit; dL/dx = g·scale.

    Examples:
        >>> x = tf.Variable(0.1)
        >>> with tf.GradientTape() as tape:
        ...     y = grad_scale(x, 0.25)
        >>> bool(y == x), float(tape.gradient(y, x))
        (True, 0.25)
    """

    @tf.custom_gradient
    def operation(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(x), lambda g: g * scale

    return operation(full_precision(x))


def adjust_range_to_include_zero(
    range_min: tf.Tensor, range_max: tf.Tensor, n_bits: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(min', max'): zero on a level, in order; the gradient passes straight through both ends (contract section 2).

    Examples:
        >>> low, high = adjust_range_to_include_zero(tf.constant([0.5, -1.1]), tf.constant([2.0, 2.0]), 2)
        >>> [round(end, 4) for end in (*low.numpy().tolist(), *high.numpy().tolist())]
        [0.0, -1.0333, 2.0, 2.0667]
    """
    return uniform_range(full_precision(range_min), full_precision(range_max), Grid(n_bits, False), MIN_THRESHOLD)


def symmetric_quantizer(tensor_data: tf.Tensor, threshold: Any, n_bits: int, sign: bool = False) -> tf.Tensor:
    """Quantize over a symmetric range as the STE quantizers do.

    Args:
        tensor_data: x, floating.
        threshold: One number, or one for each channel in a shape that broadcasts.
        n_bits: b.
        sign: Whether there are levels below zero.

    Raises:
        QuantizerError: the threshold differs along more than one axis, or does not broadcast.

    Examples:
        >>> symmetric_quantizer(tf.constant([0.3, -9.0]), tf.constant([1.0]), 2, sign=True).numpy().tolist()
        [0.5, -1.0]
    """
    return _symmetric("symmetric_quantizer", tensor_data, threshold, Grid(n_bits, bool(sign)), False, 1.0)


def uniform_quantizer(tensor_data: tf.Tensor, range_min: Any, range_max: Any, n_bits: int) -> tf.Tensor:
    """Quantize over a range with two ends as the STE quantizers do.

    Args:
        tensor_data: x, floating.
        range_min: Lower end: one number, or one for each channel in a shape that broadcasts.
        range_max: Upper end, likewise.
        n_bits: b.

    Raises:
        QuantizerError: the range differs along more than one axis, or does not broadcast.

    Examples:
        >>> uniform_quantizer(tf.constant([0.3, -9.0]), tf.constant([-1.0]), tf.constant([2.0]), 2).numpy().tolist()
        [0.0, -1.0]
    """
    return _uniform("uniform_quantizer", tensor_data, range_min, range_max, Grid(n_bits, False), False, 1.0)


def symmetric_lsq_quantizer(
    x: tf.Tensor, thresholds: Any, num_bits: int, sign: bool, min_int: int, max_int: int, scale_factor: float
) -> tf.Tensor:
    """Quantize over a symmetric range as the LSQ quantizers do; ``scale_factor`` scales the threshold's gradient.

    Args:
        x: Floating.
        thresholds: One number, or one for each channel in a shape that broadcasts.
        num_bits: b.
        sign: Whether there are levels below zero.
        min_int: The lowest level.
        max_int: The highest level.
        scale_factor: r.

    Raises:
        QuantizerError: the levels are not those of b bits, or thresholds as for ``symmetric_quantizer``.

    Examples:
        >>> symmetric_lsq_quantizer(tf.constant([0.3, -9.0]), tf.constant([1.0]), 2, True, -2, 1, 0.1).numpy().tolist()
        [0.5, -1.0]
    """
    grid = full_grid("symmetric_lsq_quantizer", num_bits, bool(sign), min_int, max_int)
    return _symmetric("symmetric_lsq_quantizer", x, thresholds, grid, True, float(scale_factor))


def uniform_lsq_quantizer(
    x: tf.Tensor, min_range: Any, max_range: Any, num_bits: int, min_int: int, max_int: int, scale_factor: float
) -> tf.Tensor:
    """Quantize over a range with two ends as the LSQ quantizers do; ``scale_factor`` scales the gradients of the ends.

    Args:
        x: Floating.
        min_range: Lower end: one number, or one for each channel in a shape that broadcasts.
        max_range: Upper end, likewise.
        num_bits: b.
        min_int: The lowest level, 0.
        max_int: The highest level.
        scale_factor: r.

    Raises:
        QuantizerError: the levels are not those of b bits, or the range as for ``uniform_quantizer``.

    Examples:
        >>> ends = tf.constant([-1.0]), tf.constant([2.0])
        >>> uniform_lsq_quantizer(tf.constant([0.3, -9.0]), *ends, 2, 0, 3, 0.1).numpy().tolist()
        [0.0, -1.0]
    """
    grid = full_grid("uniform_lsq_quantizer", num_bits, False, min_int, max_int)
    return _uniform("uniform_lsq_quantizer", x, min_range, max_range, grid, True, float(scale_factor))


def _symmetric(owner: str, x: tf.Tensor, threshold: Any, grid: Grid, *gradient: Any) -> tf.Tensor:
    x, axis, (threshold,) = _flat(owner, x, threshold)
    ends = symmetric_range(threshold, grid, MIN_THRESHOLD, power_of_two=False)
    return fake_quantize(x, *ends, grid, axis, *gradient)


def _uniform(owner: str, x: tf.Tensor, low: Any, high: Any, grid: Grid, *gradient: Any) -> tf.Tensor:
    x, axis, (low, high) = _flat(owner, x, low, high)
    return fake_quantize(x, *uniform_range(low, high, grid, MIN_THRESHOLD), grid, axis, *gradient)


def _flat(owner: str, x: tf.Tensor, *parameters: Any) -> tuple[tf.Tensor, int | None, list[tf.Tensor]]:
    """x, the channel axis of parameters that broadcast over it, and those in the shape that the kernel takes."""
    x, tensors = tf.convert_to_tensor(x), [tf.cast(full_precision(each), tf.float32) for each in parameters]
    axis = channel_axis_of(owner, tensors[0].shape.as_list(), x.shape.as_list())
    return x, axis, [tf.reshape(each, [] if axis is None else [-1]) for each in tensors]
