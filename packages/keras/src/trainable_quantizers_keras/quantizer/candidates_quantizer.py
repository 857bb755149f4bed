"""Quantizers that learn their number of bits, in Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.constants import ATTENTION, STEP
from trainable_quantizers_core.quantizer.candidates_quantizer import CandidatesQuantizer

from trainable_quantizers_keras.keras_version import full_precision, infers_shapes
from trainable_quantizers_keras.kernels.effective import TF_OPS
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer


class KerasCandidatesQuantizer(CandidatesQuantizer, KerasRangeQuantizer):
    """A quantizer whose candidates and attention are weights of a layer."""

    def __call__(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """The quantized ``inputs``: in training the mixture, until the schedule ends; else those of one candidate.

        Raises:
            QuantizerError: ``inputs`` is not a floating tensor.
        """
        inputs = self._floating(inputs)
        if not self.enabled or infers_shapes():
            return inputs
        each = [candidate(tf.cast(inputs, tf.float32), training) for candidate in self.candidates]
        quantized = self._of_chosen(each)
        if self.schedule is not None and training is not None and training is not False:
            shares = tf.unstack(self.shares())
            mixed = tf.add_n([share * one for share, one in zip(shares, each, strict=True)])
            quantized = tf.where(tf.logical_and(self._learns(), tf.cast(training, tf.bool)), mixed, quantized)
        return tf.cast(quantized, inputs.dtype)

    def shares(self) -> tf.Tensor:
        """softmax(a/τ): how much each candidate counts at the present step; 1 and 0 once the schedule ended."""
        attention = self._attention()
        chosen = tf.one_hot(tf.argmax(attention), len(self.candidates))
        if self.schedule is None:
            return chosen
        temperature = self.schedule.temperature(TF_OPS, full_precision(self.get_quantizer_variable(STEP)))
        return tf.where(self._learns(), tf.nn.softmax(attention / temperature), chosen)

    def _attention(self) -> tf.Tensor:
        return full_precision(self._current(ATTENTION))

    def _of_chosen(self, each: Sequence[tf.Tensor]) -> tf.Tensor:
        chosen = tf.argmax(self._attention())
        found = each[0]
        for position, other in enumerate(each[1:], 1):
            found = tf.where(chosen == position, other, found)
        return found
