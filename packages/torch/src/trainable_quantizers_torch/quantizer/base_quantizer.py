"""The base class of trainable quantizers in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from trainable_quantizers_core import BaseTrainableQuantizer, VariableGroup
from trainable_quantizers_core.constants import GROUP, VAR

from trainable_quantizers_torch.layers.plain import adopt


class BasePytorchTrainableQuantizer(BaseTrainableQuantizer):
    """A trainable quantizer whose variables are parameters of a ``torch.nn.Module``.

    Subclass it as ``BaseTrainableQuantizer`` describes. Variables that a module owns are looked up there by
    name each time, so that replacing them (``load_state_dict(assign=True)``, ``functional_call``,
    a move to another device) takes effect in the next forward.

    Args:
        quantization_config: The configuration, of the class for the marked target and with a marked method.
        freeze_quant_params: Whether the quantization parameters keep their initial values.

    Raises:
        QuantizerError: the class is not marked, its signature does not fit, or the configuration does not.

    Examples:
        >>> from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer
        >>> from trainable_quantizers_core import TrainableQuantizerActivationConfig
        >>> @mark_quantizer(quantization_target=QuantizationTarget.Activation,
        ...                 quantization_method=[QuantizationMethod.SYMMETRIC], identifier="clip")
        ... class ClippingQuantizer(BasePytorchTrainableQuantizer):
        ...     def __init__(self, quantization_config: TrainableQuantizerActivationConfig):
        ...         super().__init__(quantization_config)
        ...     def initialize_quantization(self, tensor_shape, name, layer):
        ...         layer.register_parameter(name, torch.nn.Parameter(torch.tensor(1.0)))
        ...         self.add_quantizer_variable("limit", layer.get_parameter(name), VariableGroup.QPARAMS)
        ...     def __call__(self, inputs, training=True):
        ...         return torch.clamp(inputs, max=self.get_quantizer_variable("limit"))
    """

    def __init__(self, quantization_config: Any, freeze_quant_params: bool = False) -> None:
        super().__init__(quantization_config, freeze_quant_params)
        self._owner: torch.nn.Module | None = None
        self._owned: dict[str, str] = {}

    def bind(self, layer: torch.nn.Module) -> None:
        """Look variables up on ``layer`` from now on, under the names that they have there.

        A wrapper or holder of mct-quantizers gains two abilities: copies after a forward, and a complete conversion.
        """
        adopt(layer)
        named = {id(tensor): name for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
        self._owner = layer
        self._owned = {
            name: named[id(entry[VAR])] for name, entry in self.quantizer_parameters.items() if id(entry[VAR]) in named
        }

    def release(self) -> None:
        """Remove the variables from the module that owns them; the quantizer is no longer used."""
        for path in self._owned.values():
            owner, attribute = self._locate(path)
            delattr(owner, attribute)
        self._owner, self._owned, self.quantizer_parameters = None, {}, {}

    def get_quantizer_variable(self, name: str) -> torch.Tensor:
        """The tensor registered under ``name``, as its module has it now."""
        if name not in self._owned:
            return super().get_quantizer_variable(name)
        return getattr(*self._locate(self._owned[name]))

    def _locate(self, path: str) -> tuple[torch.nn.Module, str]:
        parent, _, attribute = path.rpartition(".")
        assert self._owner is not None  # bind came first
        return self._owner.get_submodule(parent), attribute

    def get_trainable_variables(self, group: VariableGroup) -> list[torch.Tensor]:
        """The variables of ``group`` that require a gradient."""
        variables = (
            self.get_quantizer_variable(name)
            for name, entry in self.quantizer_parameters.items()
            if entry[GROUP] is group
        )
        return [variable for variable in variables if variable.requires_grad]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor if processes of a group each hold a part; any other unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Set the value of a tensor; if a group of processes holds it in parts, each process sets its own."""
    if hasattr(tensor, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor  # not in every build of PyTorch

        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


class BasePytorchActivationTrainableQuantizer(BasePytorchTrainableQuantizer):
    """The base class of trainable quantizers of activations, below which they are looked up; derive yours from it."""
