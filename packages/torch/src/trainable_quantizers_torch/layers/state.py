"""The extra state that wrappers and holders add to the state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from trainable_quantizers_core.quantizer.structure import SIGN, adopt_signs, structural_differences, structure_of

_KEY = "_extra_state"  # as PyTorch names it


class StructuredState(torch.nn.Module):
    """A module whose state includes the structure of its quantizers.

    It refuses a state of quantizers with other bits, methods or axes. It does adopt the sign of activations, which
    calibration finds like their thresholds: other data may have given another one. The text is stored as a tensor of
    bytes, because safetensors and distributed checkpoints take nothing else.
    """

    def _quantizers_by_key(self) -> Mapping[Any, Any]:
        raise NotImplementedError

    def get_extra_state(self) -> torch.Tensor:
        """Method, bits, sign and channel axis of the quantizers."""
        return torch.frombuffer(bytearray(structure_of(self._quantizers_by_key()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Do nothing: ``_load_from_state_dict`` compared the state."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """As PyTorch does, but load no variable from a state of another structure."""
        _, _, missing, _, errors = arguments
        key, owner, quantizers = prefix + _KEY, prefix[:-1] or type(self).__name__, self._quantizers_by_key()
        if key in state_dict:
            try:
                text = bytes(state_dict[key].tolist()).decode()
                differing = structural_differences(owner, quantizers, text, but=(SIGN,))
                if not differing:
                    adopt_signs(quantizers, text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                differing = [f"{owner}: {_KEY} must be as this package writes it, got {error!r}; the state is damaged"]
            if differing:
                errors.extend(differing)
                return
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if key in missing:  # of a state made from parameters and buffers alone
            missing.remove(key)
