"""The modules that quantize activations, and weights that no layer owns alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mct_quantizers import BaseInferableQuantizer, PytorchActivationQuantizationHolder
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.layers.state import StructuredState
from trainable_quantizers_torch.layers.wrapper import become


class PytorchTrainableActivationQuantizationHolder(StructuredState, PytorchActivationQuantizationHolder):
    """The activation holder of mct-quantizers, with a trainable quantizer.

    Args:
        activation_holder_quantizer: The quantizer, whose variables become parameters of this module.

    Raises:
        QuantizerError: not a quantizer.

    Examples:
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerActivationConfig(
        ...     QuantizationMethod.POWER_OF_TWO, 2, {THRESHOLD: 1.0, SIGNED: False}, True, MIN_THRESHOLD)
        >>> holder = PytorchTrainableActivationQuantizationHolder(LSQSymmetricActivationTrainableQuantizer(config))
        >>> holder(torch.tensor([0.3, 2.0])).tolist()
        [0.25, 0.75]
        >>> holder.convert_to_inferable_quantizers()(torch.tensor([0.3, 2.0])).tolist()
        [0.25, 0.75]
    """

    def __init__(self, activation_holder_quantizer: BaseInferableQuantizer, **kwargs: Any) -> None:
        if not isinstance(activation_holder_quantizer, BaseInferableQuantizer):
            advice = "build one from its configuration"
            raise invalid(
                type(self).__name__, "activation_holder_quantizer", "a quantizer", activation_holder_quantizer, advice
            )
        super().__init__(activation_holder_quantizer, **kwargs)
        bind = getattr(activation_holder_quantizer, "bind", None)
        if bind is not None:
            bind(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The quantized ``inputs``."""
        quantizer = self.activation_holder_quantizer
        return quantizer(inputs, self.training) if isinstance(quantizer, BaseTrainableQuantizer) else quantizer(inputs)

    def _quantizers_by_key(self) -> Mapping[Any, Any]:
        return {"out": self.activation_holder_quantizer}

    def extra_repr(self) -> str:
        """The quantizer."""
        return repr(self.activation_holder_quantizer)

    def convert_to_inferable_quantizers(self) -> torch.nn.Module:
        """Turn into a plain ``PytorchActivationQuantizationHolder``, in place, and return it.

        With a disabled quantizer it turns into a ``torch.nn.Identity``.
        """
        return become(self, self.inferable())

    def inferable(self) -> torch.nn.Module:
        """A plain holder of the inferable quantizer, or an identity."""
        quantizer = self.activation_holder_quantizer
        if not getattr(quantizer, "enabled", True):
            return torch.nn.Identity()
        convert = getattr(quantizer, "convert2inferable", None)
        inferable = quantizer if convert is None else convert()
        return PytorchActivationQuantizationHolder(inferable).train(self.training)


class TrainableWeightHolder(PytorchTrainableActivationQuantizationHolder):
    """A holder for a weight that no layer owns alone: a function reads it, or the forward computes it.

    Args:
        quantizer: A quantizer of weights.
        shape: That of the weight.

    Raises:
        QuantizerError: a quantizer that learns rounding or follows oscillations, which has to write into the weight.

    Examples:
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.POWER_OF_TWO, 2, {THRESHOLD: 1.0}, True, 0, True, MIN_THRESHOLD)
        >>> holder = TrainableWeightHolder(LSQSymmetricWeightsTrainableQuantizer(config), (1, 2))
        >>> holder(torch.tensor([[0.3, -2.0]])).tolist()
        [[0.5, -1.0]]
    """

    def __init__(self, quantizer: BaseInferableQuantizer, shape: Any) -> None:
        soft = getattr(getattr(quantizer, "gradient", None), "soft_rounding", False)
        if soft or getattr(quantizer, "oscillations", None) is not None:
            advice = "exclude it by a rule, or let a layer of its own read it"
            rule = "one without AdaRound and oscillations for a weight that no layer owns alone"
            raise invalid(type(self).__name__, "quantizer", rule, quantizer, advice)
        torch.nn.Module.__init__(self)
        self.activation_holder_quantizer = quantizer
        quantizer.initialize_quantization(torch.Size(shape), "weight", self)

    def inferable(self) -> torch.nn.Module:
        """The same with an inferable quantizer, or an identity."""
        plain = super().inferable()
        if isinstance(plain, PytorchActivationQuantizationHolder):
            plain.__class__ = InferableWeightHolder
        return plain


class InferableWeightHolder(PytorchActivationQuantizationHolder):
    """The holder of mct-quantizers for a weight that a forward computes, which inferable quantizers need detached."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The quantized weight."""
        return self.activation_holder_quantizer(inputs.detach())
