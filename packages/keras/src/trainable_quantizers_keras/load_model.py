"""Loads a saved model with all its quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mct_quantizers
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.graph.exchanged import hold
from trainable_quantizers_keras.inventory import quantizers_by_place
from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, keras
from trainable_quantizers_keras.layers.serialization import quantizer_classes
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper


def keras_load_quantized_model(
    filepath: Any, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, options: Any = None
) -> Any:
    """``keras.models.load_model`` that knows all quantizer classes, including unregistered ones.

    Args:
        filepath: Path of the saved model.
        custom_objects: Further classes by name; they win over ours.
        compile: Whether to compile the model after loading.
        options: ``tf.saved_model.LoadOptions``, for SavedModels on Keras 2.

    Raises:
        QuantizerError: ``options`` on Keras 3, which has none.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> network, x = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), np.ones((8, 4), "float32")
        >>> model = prepare(network, Recipe.preset("power_of_two_8bit"), [x], verbose=False)
        >>> with TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.keras")
        ...     loaded = keras_load_quantized_model(f"{folder}/model.keras")
        >>> bool((loaded(x) == model(x)).numpy().all())
        True
    """
    registered = keras.utils.get_custom_objects().items()  # HDF5 files of Keras 2 name classes without their package
    ours = {name.removeprefix(f"{PACKAGE}>"): cls for name, cls in registered if name.startswith(f"{PACKAGE}>")}
    custom_objects = {**ours, **quantizer_classes(), **(custom_objects or {})}
    if KERAS_3:
        if options is not None:
            raise invalid("keras_load_quantized_model", "options", "None on Keras 3", options, "leave it out")
        model = keras.models.load_model(filepath, custom_objects=custom_objects, compile=compile)
    else:
        model = mct_quantizers.keras_load_quantized_model(filepath, custom_objects, compile, options)
    quantizers = quantizers_by_place(model)
    for layer in model._flatten_layers():
        if isinstance(layer, KerasTrainableQuantizationWrapper):
            layer.find_inputs(quantizers)
    hold(model)
    return model
