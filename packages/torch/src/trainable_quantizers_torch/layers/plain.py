"""Mixins for mct-quantizers' own wrapper and holder, which they need to hold trainable quantizers.

They stay instances of their own class, are called like it, and have it back once they are converted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from mct_quantizers.common.constants import QUANTIZED_POSITIONAL_WEIGHT

from trainable_quantizers_torch.layers.mixed import mix, unmix


class PlainWrapper:
    """The wrapper of mct-quantizers, which keeps the quantized weights of its last forward in its layer."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's output; kept tensors are detached, so that the wrapper can be copied and pickled."""
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            for key in self.weights_quantizers:
                keeper, name = (self.layer, key) if self.is_str_attr else (self, f"{QUANTIZED_POSITIONAL_WEIGHT}_{key}")
                setattr(keeper, name, getattr(keeper, name).detach())

    def convert_to_inferable_quantizers(self: Any) -> None:
        """Convert the quantizers in place, and remove the trainable ones."""
        trained = list(self.weights_quantizers.values())
        super().convert_to_inferable_quantizers()  # type: ignore[misc]
        _let_go(self, PlainWrapper, trained)


class PlainHolder:
    """A holder of mct-quantizers."""

    def convert_to_inferable_quantizers(self: Any) -> None:
        """Convert the quantizer in place, and remove the trainable one."""
        trained = self.activation_holder_quantizer
        super().convert_to_inferable_quantizers()  # type: ignore[misc]
        _let_go(self, PlainHolder, [trained])


def adopt(module: torch.nn.Module) -> None:
    """Mix the missing abilities into a wrapper or holder of mct-quantizers; leave any other module as it is."""
    if not type(module).__module__.startswith("mct_quantizers."):
        return
    if isinstance(module, PytorchQuantizationWrapper):
        mix(module, PlainWrapper, first=True)
    elif isinstance(module, PytorchActivationQuantizationHolder):
        mix(module, PlainHolder, first=True)


def _let_go(module: torch.nn.Module, mixin: type, quantizers: Iterable[Any]) -> None:
    """Remove the parameters of quantizers of this package, and the mixin."""
    for quantizer in quantizers:
        if hasattr(quantizer, "release"):
            quantizer.release()
    unmix(module, mixin)
