import importlib.util

if importlib.util.find_spec("torch"):
    import torch  # noqa: F401  before TensorFlow, which mct-quantizers imports with it

import tensorflow as tf
import trainable_quantizers_keras  # noqa: F401  starts no device: users choose and limit devices after they import

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
