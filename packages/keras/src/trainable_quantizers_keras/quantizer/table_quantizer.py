"""Quantizers to the entries of a look-up table in Keras."""

from __future__ import annotations

import tensorflow as tf
from mct_quantizers import QuantizationTarget
from trainable_quantizers_core import THRESHOLD
from trainable_quantizers_core.constants import TABLE
from trainable_quantizers_core.quantizer.grid import symmetric_range

from trainable_quantizers_keras.kernels.table import effective_table, effective_threshold, look_up
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer


class KerasTableQuantizer(KerasRangeQuantizer):
    """A quantizer whose threshold and table are weights of a layer."""

    def _quantized(self, inputs: tf.Tensor) -> tf.Tensor:
        spec = self.specification
        scale = self._lsq_factor(inputs)
        is_weight = type(self).quantization_target is QuantizationTarget.Weights
        scales = (scale, spec.lsq_factor(inputs.shape.num_elements()) if is_weight else scale)
        grid = spec.levels
        levels = effective_table(self._learned(TABLE), grid)
        return look_up(inputs, self._threshold(), levels, grid, self.channel_axis, *scales)

    def _threshold(self) -> tf.Tensor:
        spec = self.specification
        return effective_threshold(self._learned(THRESHOLD), spec.min_threshold, spec.power_of_two, spec.log2)

    def effective_range(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The lowest and the highest value that an entry of the table can stand for."""
        return symmetric_range(self._threshold(), self.specification.levels)

    def step(self) -> tf.Tensor:
        """Δ, of which entries are multiples, of shape () or (channels,); nothing learns through it."""
        return tf.stop_gradient(self._threshold()) / self.specification.levels.steps_per_threshold
