"""A view of a tensor in memory order, as (outer, channels, inner), or as a numpy array."""

from __future__ import annotations

import math

import numpy as np
import torch


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor on a CPU, to read.

    ``Tensor.numpy`` forbids that the memory is ever resized, as FSDP does with parameters between their uses; DLPack,
    which takes longer, does not.
    """
    tensor = tensor.detach().resolve_neg()
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return np.from_dlpack(tensor) if shared else tensor.numpy()


class Layout:
    """A tensor as (outer, channels, inner), in any memory format.

    Args:
        dense: The tensor whose memory format counts; views of it can be written to.
        channel_axis: Its axis of channels, or None.
    """

    def __init__(self, dense: torch.Tensor, channel_axis: int | None) -> None:
        self.order = None if dense.is_contiguous() else sorted(range(dense.ndim), key=dense.stride, reverse=True)
        if channel_axis is None or dense.shape[channel_axis] == 1:
            self.outer, self.channels, self.inner = 1, 1, dense.numel()
        else:
            order = self.order or range(dense.ndim)
            place = order.index(channel_axis)
            sizes = [dense.shape[axis] for axis in order]
            self.outer, self.channels, self.inner = (
                math.prod(sizes[:place]),
                sizes[place],
                math.prod(sizes[place + 1 :]),
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(outer, channels, inner)."""
        return self.outer, self.channels, self.inner

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """One-dimensional, in the order of memory; a view wherever the tensor is laid out like this one."""
        return (tensor if self.order is None else tensor.permute(self.order)).reshape(-1)
