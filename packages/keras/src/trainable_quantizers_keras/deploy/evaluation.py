"""Runs one operation of a TensorFlow graph on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.integer.dataflow import no_definition


def evaluated(operation: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The results of an operation for arrays."""
    if not all(tensor.dtype.is_numpy_compatible for tensor in operation.outputs):
        raise no_definition(operation.type, operation.name)
    with tf.Graph().as_default() as graph:
        given = {f"given_{at}": tf.constant(each) for at, each in enumerate(inputs)}
        alone = tf.compat.v1.GraphDef()
        node = alone.node.add()
        node.CopyFrom(operation.node_def)
        node.name = "alone"
        del node.input[:]
        node.input.extend(given)
        names = [f"alone:{at}" for at in range(len(operation.outputs))]
        results = tf.import_graph_def(alone, given, names, name="")
        return tf.compat.v1.Session(graph=graph).run(results)  # type: ignore[no-any-return]
