"""The averages of Keras's optimizers take in thresholds, and convert."""

import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import KERAS_3

keras = tf.keras
X = np.random.default_rng(0).standard_normal((32, 4)).astype("float32")


def test_averaged_weights_and_thresholds_are_deployed():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    recipe = tq.Recipe({"num_bits": 4, "schedule": {"ramp": 2}}, {"num_bits": 4})
    model = tq.prepare(network, recipe, [X], verbose=False)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.75), "mse")
    seen = []

    def see(batch=0, logs=None):
        seen.append([np.array(variable) for variable in model.trainable_variables])

    look = keras.callbacks.LambdaCallback(on_train_batch_end=see)
    start = [np.array(variable) for variable in model.trainable_variables]
    callbacks = [tq.QuantizationScheduleCallback(), look]
    model.fit(X, np.zeros((32, 2), "float32"), batch_size=8, verbose=0, callbacks=callbacks)
    assert len(seen) == 4
    averaged = seen[0] if KERAS_3 else start  # Keras 3 begins with what the first step gave
    for values in seen[KERAS_3:]:
        averaged = [0.75 * mean + 0.25 * value for mean, value in zip(averaged, values, strict=True)]
    thresholds = 0
    for variable, mean, last in zip(model.trainable_variables, averaged, seen[-1], strict=True):
        np.testing.assert_allclose(np.array(variable), mean, rtol=1e-5, atol=1e-7)
        thresholds += "threshold" in variable.name and not np.array_equal(np.array(variable), last)
    assert thresholds >= 4
    assert [float(weight) for weight in model.weights if "kernel_step" in weight.name] == [4.0, 4.0]
    np.testing.assert_array_equal(tq.convert(model)(X), model(X))
