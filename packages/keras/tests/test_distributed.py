"""Replicas under a strategy train as one process with the whole batch would."""

import subprocess
import sys

from trainable_quantizers_keras.keras_version import KERAS_3

PROGRAM = """
import numpy as np
import tensorflow as tf
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import KERAS_3, keras

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
draw = np.random.default_rng(0)
x, y = (draw.standard_normal((32, size)).astype("float32") for size in (8, 4))
scheme = {"num_bits": 4, "schedule": {"start": 1}}

def prepared():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    return tq.prepare(network, tq.Recipe(scheme, scheme), [x], verbose=False)

def compiled(model):
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model

def fit(model):
    model.fit(x, y, 16, 2, shuffle=False, verbose=0, callbacks=[tq.QuantizationScheduleCallback()])
    return model.get_weights()

with strategy.scope():
    model, uncompiled = compiled(prepared()), prepared()
for one, other in zip(fit(model), fit(compiled(prepared()))):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
if KERAS_3:  # Keras 2 refuses it by itself
    try:
        fit(compiled(uncompiled))
    except tq.QuantizerError as error:
        print(error)
"""


def test_replicas_are_one_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = "model and optimizer must be made in the scope of the strategy"
    assert (told in done.stdout) == KERAS_3
