"""Replicas under a strategy train as one process with the whole batch would."""

import json
import os
import socket
import subprocess
import sys

from trainable_quantizers_keras.keras_version import KERAS_3

PROGRAM = """
import numpy as np
import tensorflow as tf
DEVICES
import trainable_quantizers_keras as tq
from trainable_quantizers_keras.keras_version import KERAS_3, keras

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
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16).with_options(options)
    model.fit(batches, epochs=2, verbose=0, callbacks=[tq.QuantizationScheduleCallback()])
    return model.get_weights()

with strategy.scope():
    model, uncompiled = compiled(prepared()), prepared()
weights = fit(model)
for one, other in zip(weights, fit(compiled(prepared()))):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
"""
REPLICAS = """
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""
REFUSED = """
if KERAS_3:  # Keras 2 refuses it by itself
    try:
        fit(compiled(uncompiled))
    except tq.QuantizerError as error:
        print(error)
"""
WORKERS = "strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow"


def test_replicas_are_one_process():
    program = PROGRAM.replace("DEVICES", REPLICAS) + REFUSED
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = "model and optimizer must be made in the scope of the strategy"
    assert (told in done.stdout) == KERAS_3


if not KERAS_3:  # whose `fit` takes no model under this strategy, float ones neither

    def test_workers_are_one_process():
        program = PROGRAM.replace("DEVICES", WORKERS) + "print([weight.tolist() for weight in weights])"
        command = [sys.executable, "-c", program]
        workers = []
        addresses = free_addresses(2)
        for index in range(2):
            place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(place)}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            workers.append(subprocess.Popen(command, env=environment, **pipes))
        done = [worker.communicate(timeout=240) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], done
        assert done[0][0] == done[1][0]


def free_addresses(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses
