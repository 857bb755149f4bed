"""Linear annealing in Keras."""

from __future__ import annotations

import tensorflow as tf
from trainable_quantizers_core import BaseLinearAnnealingScheduler


class KerasLinearAnnealingScheduler(BaseLinearAnnealingScheduler):
    """Linear annealing of a 0-d tensor; the step may be a variable inside ``tf.function``.

    Examples:
        >>> float(KerasLinearAnnealingScheduler(t_start=10, t_end=20, initial_val=0.0, target_val=1.0)(15))
        0.5
    """

    def _compute_factor(self, t: int | tf.Tensor) -> tf.Tensor:
        elapsed = tf.cast(tf.convert_to_tensor(t), tf.float32) - self.t_start
        return tf.clip_by_value(elapsed / (self.t_end - self.t_start), 0.0, 1.0)
