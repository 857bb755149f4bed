"""Weight decay and quantization parameters."""

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, residual

keras = tf.keras


def prepared():
    return tq.prepare(residual(), tq.Recipe.preset("power_of_two_8bit"), [IMAGES], verbose=False)


def test_weight_decay_leaves_thresholds_alone():
    model = prepared()
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    tq.exclude_quantizers_from_weight_decay(optimizer, model)
    before = [weight.numpy() for weight in model.trainable_variables]
    zeros = [tf.zeros_like(weight) for weight in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    thresholds = 0
    for weight, old in zip(model.trainable_variables, before, strict=True):
        same = np.array_equal(weight.numpy(), old)
        threshold = "threshold" in weight.name
        assert same == (threshold or not old.any()), weight.name
        thresholds += threshold
    assert thresholds == 9


def test_mistakes_are_explained():
    with pytest.raises(tq.QuantizerError, match="prepare it first"):
        tq.exclude_quantizers_from_weight_decay(keras.optimizers.AdamW(), residual())
    model, optimizer = prepared(), keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    with pytest.raises(tq.QuantizerError, match="before the first step"):
        tq.exclude_quantizers_from_weight_decay(optimizer, model)
