import torch  # noqa: F401  before anything that imports TensorFlow
