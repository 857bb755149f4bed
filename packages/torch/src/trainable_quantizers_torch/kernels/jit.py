"""The fused operation on a CPU, compiled by numba if installed: one pass forward, one pass backward.

Each kernel works on a range of a flat tensor, so that a few threads share one by ranges; they release the
interpreter. Sums may be reassociated, which lets them be vectorised; nothing else of IEEE arithmetic is relaxed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from trainable_quantizers_torch.kernels import blocks
from trainable_quantizers_torch.kernels.layout import Layout, as_array
from trainable_quantizers_torch.kernels.limits import limits


def quantize(
    x: torch.Tensor, step: torch.Tensor, zero_point: torch.Tensor, lowest: int, highest: int, channel_axis: int | None
) -> torch.Tensor | None:
    """The same bits as torch's fake-quantize kernels; short rows of channels are left to ``blocks``."""
    y = torch.empty_like(x)
    layout = Layout(y, channel_axis)
    if layout.inner < limits.row:
        return blocks.quantize(x, step, zero_point, lowest, highest, channel_axis)
    target = y if y.dtype == torch.float32 else torch.empty_like(y, dtype=torch.float32)
    arrays = [as_array(layout.flat(x).float()), layout.flat(target).numpy()]
    parameters = [as_array(p.reshape(-1).float()) for p in (1 / step, zero_point, step)]
    ends = (np.float32(lowest), np.float32(highest))
    _in_ranges(_kernels()[0], x.numel(), *arrays, *parameters, *ends, channel_axis is not None, layout.inner)
    return y if target is y else y.copy_(target)


def gradients(
    g: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    num_steps: int,
    channel_axis: int | None,
    of_range: bool,
    from_rounding: bool,
    ewgs: float,
) -> tuple[Any, ...] | None:
    """The gradients of ``range_gradients`` of the core; short rows of channels are left to ``blocks``."""
    grad_x = torch.empty_like(x)
    layout = Layout(grad_x, channel_axis)
    if layout.inner < limits.row:
        return blocks.gradients(g, x, low, high, num_steps, channel_axis, of_range, from_rounding, ewgs)
    target = grad_x if grad_x.dtype == torch.float32 else torch.empty_like(grad_x, dtype=torch.float32)
    arrays = [*(as_array(layout.flat(tensor).float()) for tensor in (g, x)), layout.flat(target).numpy()]
    ends = [as_array(p.reshape(-1).float()) for p in (low, high)]
    inverse = np.float32(num_steps) / (ends[1] - ends[0])
    scale = np.float32(ewgs) if ewgs else None  # numba compiles a kernel for each type, that of None without the rule
    parts = _in_ranges(_kernels()[1], x.numel(), *arrays, *ends, inverse, scale, layout.inner)
    if target is not grad_x:
        grad_x.copy_(target)
    if not of_range:
        return grad_x, None, None
    below, above, moved = sum(parts)
    if from_rounding:
        below, above = below - moved / num_steps, above + moved / num_steps
    return grad_x, _tensor(below, low), _tensor(above, high)


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32)).view(like.shape)


def _in_ranges(kernel: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    count = min(torch.get_num_threads(), size // limits.thread) or 1
    bounds = [size * index // count for index in range(count + 1)]
    if count == 1:
        return [kernel(*arguments, 0, size)]
    first, *others = pairwise(bounds)
    waiting = [_threads(os.getpid()).submit(kernel, *arguments, *part) for part in others]
    return [kernel(*arguments, *first), *(one.result() for one in waiting)]


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of this process: those of the parent do not survive a fork."""
    return ThreadPoolExecutor(thread_name_prefix="fake_quantize")


@lru_cache(maxsize=1)
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward), compiled at the first call of a process or loaded from numba's cache."""
    from numba import njit

    zero, one = np.float32(0), np.float32(1)
    overflow = np.float32(2.0**63)

    def quantize_part(x, y, inverse, zero_point, step, lowest, highest, wraps):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            level = np.rint(x[i] * inverse) + zero_point
            bounded = highest if level > highest else (level if level >= lowest else lowest)  # lowest for NaN
            y[i] = ((lowest if wraps and level >= overflow else bounded) - zero_point) * step

    def differentiate_part(g, x, grad_x, low, high, inverse, ewgs):  # type: ignore[no-untyped-def]
        below = above = moved = zero
        for i in range(x.size):
            inside = (x[i] >= low) & (x[i] <= high)
            v = x[i] * inverse
            error = np.rint(v) - v if inside else zero
            passed = g[i] if inside else zero
            grad_x[i] = passed if ewgs is None else passed * (one - np.copysign(ewgs, passed) * error)
            moved += passed * error
            below += g[i] if x[i] < low else zero
            above += g[i] if x[i] > high else zero
        return below, above, moved

    exact = njit(nogil=True, error_model="numpy")
    part_forward = exact(quantize_part)
    part_backward = njit(nogil=True, error_model="numpy", fastmath={"reassoc"})(differentiate_part)

    @exact
    def forward(x, y, inverse, zero_point, step, lowest, highest, wraps, inner, start, stop):  # type: ignore[no-untyped-def]
        while start < stop:
            row = start // inner
            end = min((row + 1) * inner, stop)
            c = row % step.size
            part_forward(x[start:end], y[start:end], inverse[c], zero_point[c], step[c], lowest, highest, wraps)
            start = end

    @exact
    def backward(g, x, grad_x, low, high, inverse, ewgs, inner, start, stop):  # type: ignore[no-untyped-def]
        sums = np.zeros((3, low.size))
        while start < stop:
            row = start // inner
            end = min((row + 1) * inner, stop)
            c = row % low.size
            below, above, moved = part_backward(
                g[start:end], x[start:end], grad_x[start:end], low[c], high[c], inverse[c], ewgs
            )
            sums[0, c] += below
            sums[1, c] += above
            sums[2, c] += moved
            start = end
        return sums

    return forward, backward
