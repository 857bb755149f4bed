"""The base class of trainable quantizers in Keras."""

from __future__ import annotations

from typing import Any

from trainable_quantizers_core import BaseTrainableQuantizer, VariableGroup
from trainable_quantizers_core.constants import GROUP, VAR


class BaseKerasTrainableQuantizer(BaseTrainableQuantizer):
    """A trainable quantizer whose variables are weights of a Keras layer.

    Subclass it as ``BaseTrainableQuantizer`` describes. To have it restored by a plain ``load_model``, register
    it with ``keras.utils.register_keras_serializable``; ``keras_load_quantized_model`` finds it without.

    Args:
        quantization_config: The configuration, of the class for the marked target and with a marked method.
        freeze_quant_params: Whether the quantization parameters keep their initial values.

    Raises:
        QuantizerError: the class is not marked, its signature does not fit, or the configuration does not.

    Examples:
        >>> import tensorflow as tf
        >>> from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer
        >>> from trainable_quantizers_core import TrainableQuantizerActivationConfig
        >>> @mark_quantizer(quantization_target=QuantizationTarget.Activation,
        ...                 quantization_method=[QuantizationMethod.SYMMETRIC], identifier="clip")
        ... class ClippingQuantizer(BaseKerasTrainableQuantizer):
        ...     def __init__(self, quantization_config: TrainableQuantizerActivationConfig):
        ...         super().__init__(quantization_config)
        ...     def initialize_quantization(self, tensor_shape, name, layer):
        ...         limit = layer.add_weight(name=name, shape=(), initializer="ones", trainable=True)
        ...         self.add_quantizer_variable("limit", limit, VariableGroup.QPARAMS)
        ...     def __call__(self, inputs, training):
        ...         return tf.minimum(inputs, self.get_quantizer_variable("limit"))
    """

    def get_trainable_variables(self, group: VariableGroup) -> list[Any]:
        """The variables of ``group`` that are trainable."""
        return [
            entry[VAR] for entry in self.quantizer_parameters.values() if entry[GROUP] is group and entry[VAR].trainable
        ]


class BaseKerasActivationTrainableQuantizer(BaseKerasTrainableQuantizer):
    """The base class of trainable quantizers of activations, below which they are looked up; derive yours from it."""
