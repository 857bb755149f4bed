"""Soft rounding, which each weight learns (contract section 4, AdaRound)."""

from __future__ import annotations

import tensorflow as tf


def soft_rounding(x: tf.Tensor, step: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """h(f, α) = clip(1.2·σ(log((f + 0.1)/(1.1 - f)) + α) - 0.1, 0, 1), with f = x/Δ - floor(x/Δ), so that h(f, 0) = f.

    Its gradient goes to α alone.

    Args:
        x: The weight.
        step: Δ, shaped for broadcasting.
        alpha: α, of the shape of x.

    Examples:
        >>> x, step = tf.constant([0.25, -0.25, 0.25]), tf.constant(1.0)
        >>> [round(h, 6) for h in soft_rounding(x, step, tf.constant([0.0, 0.0, 5.0])).numpy().tolist()]
        [0.25, 0.75, 1.0]
    """
    v = tf.clip_by_value(tf.stop_gradient(x) / step, -(2.0**17), 2.0**17)  # beyond every grid; infinity has no fraction
    f = v - tf.floor(v)
    return tf.clip_by_value(1.2 * tf.sigmoid(tf.math.log((f + 0.1) / (1.1 - f)) + alpha) - 0.1, 0.0, 1.0)


def moved(x: tf.Tensor, step: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """The weight u = x + Δ·(h(f, α) - h(f, 0)): exactly x where α is 0; gradient 1 to x, and Δ·dh/dα to α.

    Examples:
        >>> moved(tf.constant([0.25, 0.25]), tf.constant(1.0), tf.constant([0.0, 5.0])).numpy().tolist()
        [0.25, 1.0]
    """
    return x + step * (soft_rounding(x, step, alpha) - soft_rounding(x, step, tf.zeros_like(alpha)))
