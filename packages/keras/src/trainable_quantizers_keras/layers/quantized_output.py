"""A layer together with the quantizer of its output, for models whose calls are written in Python."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_keras.keras_version import PACKAGE, keras
from trainable_quantizers_keras.layers.quantized_layer import AnswersAsLayer, without_foreign_mask


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasQuantizedOutput(AnswersAsLayer, keras.layers.Wrapper):
    """A layer whose output goes through an activation holder.

    Args:
        layer: The layer, or a wrapper of it.
        holder: The ``KerasActivationQuantizationHolder``.

    Examples:
        >>> import numpy as np
        >>> from trainable_quantizers_keras import *
        >>> config = TrainableQuantizerActivationConfig(
        ...     QuantizationMethod.POWER_OF_TWO, 2, {THRESHOLD: 1.0, SIGNED: False}, True, MIN_THRESHOLD)
        >>> holder = KerasActivationQuantizationHolder(LSQSymmetricActivationTrainableQuantizer(config))
        >>> KerasQuantizedOutput(keras.layers.ReLU(), holder)(np.float32([-1.0, 0.3])).numpy().tolist()
        [0.0, 0.25]
    """

    def __init__(self, layer: Any, holder: Any, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.holder = holder
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: both are built when they are called."""
        self.built = True

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The quantized output of the layer."""
        return self.holder(self.layer(inputs, *args, **without_foreign_mask(self.layer, kwargs)))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the layer."""
        return self.layer.compute_mask(inputs, mask)

    def get_config(self) -> dict[str, Any]:
        """The layer and the holder."""
        return {**super().get_config(), "holder": keras.utils.serialize_keras_object(self.holder)}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> KerasQuantizedOutput:
        """The layer restored from the result of ``get_config``."""
        parts = {key: keras.utils.deserialize_keras_object(config[key]) for key in ("layer", "holder")}
        return cls(**{**config, **parts})
