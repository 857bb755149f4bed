"""Saving and restoring this package's layers with Keras."""

from __future__ import annotations

from typing import Any

import mct_quantizers
from mct_quantizers import BaseInferableQuantizer
from mct_quantizers.common.get_all_subclasses import get_all_subclasses

from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.quantizer import activation_quantizers, weights_quantizers  # noqa: F401  defines the classes
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer


class NamedWeights:
    """Accepts the name of a weight as the first positional argument, as Keras 2 and quantizers written for it do."""

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """``keras.layers.Layer.add_weight``, in either order of arguments."""
        if args and isinstance(args[0], str):
            kwargs["name"], args = args[0], args[1:]
        if kwargs.get("name"):
            kwargs["name"] = kwargs["name"].replace("/", "_")
        weight = super().add_weight(*args, **kwargs)  # type: ignore[misc]
        if KERAS_3 and kwargs.get("name"):  # tf.train.Checkpoint and SavedModels track attributes, or this
            self._track_trackable(weight, kwargs["name"], overwrite=True)  # type: ignore[attr-defined]
        return weight


def quantizer_classes() -> dict[str, type]:
    """Every Keras quantizer by name: those of mct-quantizers, ours, and all classes derived from them."""
    inferable = {
        cls.__name__: cls
        for cls in get_all_subclasses(BaseInferableQuantizer)
        if cls.__module__.startswith("mct_quantizers.keras")
    }
    trainable = {cls.__name__: cls for cls in get_all_subclasses(BaseKerasTrainableQuantizer)}
    return {**inferable, **trainable}


def deserialize_quantizer(config: Any) -> Any:
    """The quantizer that Keras serialized to ``config``."""
    with keras.utils.custom_object_scope(quantizer_classes()):
        return keras.utils.deserialize_keras_object(config)


if not KERAS_3:  # make a plain load_model find the classes of mct-quantizers, and ours in an HDF5 file
    keras.utils.get_custom_objects().update(
        {
            **quantizer_classes(),
            "KerasQuantizationWrapper": mct_quantizers.KerasQuantizationWrapper,
            "KerasActivationQuantizationHolder": mct_quantizers.KerasActivationQuantizationHolder,
        }
    )
