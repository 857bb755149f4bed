"""The layer that quantizes an activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mct_quantizers
from mct_quantizers import BaseInferableQuantizer
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, keras
from trainable_quantizers_keras.layers.serialization import NamedWeights, deserialize_quantizer
from trainable_quantizers_keras.layers.state import StructuredState

HOLDER_SUFFIX = "_quantized"
"""The suffix of a holder's name, behind the name of the layer whose output it quantizes."""

if KERAS_3:

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasActivationQuantizationHolder(StructuredState, NamedWeights, keras.layers.Layer):
        """The holder of mct-quantizers, native to Keras 3.

        Args:
            activation_holder_quantizer: The quantizer, whose variables become weights of this layer.

        Raises:
            QuantizerError: not a quantizer.

        Examples:
            >>> import numpy as np
            >>> from trainable_quantizers_keras import *
            >>> config = TrainableQuantizerActivationConfig(
            ...     QuantizationMethod.POWER_OF_TWO, 2, {THRESHOLD: 1.0, SIGNED: False}, True, MIN_THRESHOLD)
            >>> holder = KerasActivationQuantizationHolder(LSQSymmetricActivationTrainableQuantizer(config))
            >>> holder(np.float32([0.3, 2.0])).numpy().tolist()
            [0.25, 0.75]
        """

        def __init__(self, activation_holder_quantizer: BaseInferableQuantizer, **kwargs: Any) -> None:
            if not isinstance(activation_holder_quantizer, BaseInferableQuantizer):
                advice = "build one from its configuration"
                raise invalid(
                    type(self).__name__,
                    "activation_holder_quantizer",
                    "a quantizer",
                    activation_holder_quantizer,
                    advice,
                )
            super().__init__(**kwargs)
            self.activation_holder_quantizer = activation_holder_quantizer
            self.supports_masking = True

        def build(self, input_shape: Any) -> None:
            """Create the quantizer's variables."""
            self.activation_holder_quantizer.initialize_quantization(None, "out", self)
            self.track_structure()
            self.built = True

        def call(self, inputs: Any, training: Any = None) -> Any:
            """The quantized ``inputs``."""
            quantizer = self.activation_holder_quantizer
            if isinstance(quantizer, BaseTrainableQuantizer):
                return quantizer(inputs, False if training is None else training)
            return quantizer(inputs)

        def compute_output_shape(self, input_shape: Any) -> Any:
            """The shape of the input."""
            return input_shape

        def get_config(self) -> dict[str, Any]:
            """The quantizer."""
            quantizer = keras.utils.serialize_keras_object(self.activation_holder_quantizer)
            return {**super().get_config(), "activation_holder_quantizer": quantizer}

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> KerasActivationQuantizationHolder:
            """The holder that ``get_config`` was called on."""
            config = dict(config)
            quantizer = deserialize_quantizer(config.pop("activation_holder_quantizer"))
            return cls(activation_holder_quantizer=quantizer, **config)

        def convert_to_inferable_quantizers(self) -> KerasActivationQuantizationHolder:
            """A new holder of the inferable quantizer, without weights."""
            quantizer = self.activation_holder_quantizer
            inferable = quantizer.convert2inferable() if hasattr(quantizer, "convert2inferable") else quantizer
            return KerasActivationQuantizationHolder(inferable, name=self.name)

    KerasMaskedActivationQuantizationHolder = KerasActivationQuantizationHolder
    KerasTrainableActivationQuantizationHolder = KerasActivationQuantizationHolder

else:
    KerasActivationQuantizationHolder = mct_quantizers.KerasActivationQuantizationHolder  # type: ignore[misc]

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasTrainableActivationQuantizationHolder(  # type: ignore[no-redef, misc]
        StructuredState, KerasActivationQuantizationHolder
    ):
        """The holder of mct-quantizers, whose state says of which structure the quantizer is."""

        def build(self, input_shape: Any) -> None:
            """Create the quantizer's variables."""
            super().build(input_shape)  # type: ignore[misc]
            self.track_structure()  # type: ignore[attr-defined]

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasMaskedActivationQuantizationHolder(  # type: ignore[no-redef, misc]
        KerasTrainableActivationQuantizationHolder
    ):
        """The holder of mct-quantizers, and the mask of a sequence goes on to what follows."""

        def __init__(self, activation_holder_quantizer: BaseInferableQuantizer, **kwargs: Any) -> None:
            super().__init__(activation_holder_quantizer, **kwargs)
            self.supports_masking = True
