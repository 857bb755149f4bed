"""The names of the Model Compression Toolkit's ``trainable_infrastructure`` for PyTorch, on this package's classes.

See docs/migration-mct.md. The functions have the signatures that the toolkit's have, in both frameworks, and compute
the contract: their outputs and gradients are those of the quantizers of this package.
"""

from __future__ import annotations

from typing import Any

import torch
from trainable_quantizers_core.compat import (
    FQ_MAX,
    FQ_MIN,
    GROUP,
    THRESHOLD_TENSOR,
    VAR,
    WEIGHTS_QUANTIZATION_PARAMS,
    BaseLinearAnnealingScheduler,
    BaseTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    VariableGroup,
    channel_axis_of,
    full_grid,
    get_threshold_reshape_shape,
    get_total_grad_steps,
    get_trainable_quantizer_class,
)
from trainable_quantizers_core.constants import MIN_THRESHOLD
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_torch.kernels.effective import symmetric_range, uniform_range
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.quantizer.activation_quantizers import (
    LSQSymmetricActivationTrainableQuantizer,
    LSQUniformActivationTrainableQuantizer,
    STESymmetricActivationTrainableQuantizer,
    STEUniformActivationTrainableQuantizer,
)
from trainable_quantizers_torch.quantizer.annealing import PytorchLinearAnnealingScheduler
from trainable_quantizers_torch.quantizer.base_quantizer import (
    BasePytorchActivationTrainableQuantizer,
    BasePytorchTrainableQuantizer,
)

__all__ = [
    "FQ_MAX",
    "FQ_MIN",
    "GROUP",
    "THRESHOLD_TENSOR",
    "VAR",
    "WEIGHTS_QUANTIZATION_PARAMS",
    "BaseLinearAnnealingScheduler",
    "BasePytorchActivationTrainableQuantizer",
    "BasePytorchTrainableQuantizer",
    "BaseTrainableQuantizer",
    "LSQSymmetricActivationTrainableQuantizer",
    "LSQUniformActivationTrainableQuantizer",
    "PytorchLinearAnnealingScheduler",
    "STESymmetricActivationTrainableQuantizer",
    "STEUniformActivationTrainableQuantizer",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "adjust_range_to_include_zero",
    "get_threshold_reshape_shape",
    "get_total_grad_steps",
    "get_trainable_quantizer_class",
    "grad_scale",
    "ste_clip",
    "ste_round",
    "symmetric_lsq_quantizer",
    "symmetric_quantizer",
    "uniform_lsq_quantizer",
    "uniform_quantizer",
]


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g


class _GradScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: Any) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return g * ctx.scale, None


def ste_round(x: torch.Tensor) -> torch.Tensor:
    """round(x), halves to even; dL/dx = g.

    Examples:
        >>> x = torch.tensor([0.5, 1.5, torch.inf], requires_grad=True)
        >>> ste_round(x).tolist(), torch.autograd.grad(ste_round(x).sum(), x)[0].tolist()
        ([0.0, 2.0, inf], [1.0, 1.0, 1.0])
    """
    return _Round.apply(x)


def ste_clip(x: torch.Tensor, min_val: Any = -1.0, max_val: Any = 1.0) -> torch.Tensor:
    """clip(x, min_val, max_val); dL/dx = g where x lies in the closed range, else 0.

    Examples:
        >>> x = torch.tensor([-1e9, -1.0, 0.3, 5.0], requires_grad=True)
        >>> ste_clip(x).tolist()
        [-1.0, -1.0, 0.30000001192092896, 1.0]
        >>> torch.autograd.grad(ste_clip(x).sum(), x)[0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    return torch.clamp(x, min_val, max_val)


def grad_scale(x: torch.Tensor, scale: Any = 1.0) -> torch.Tensor:
    """The identity x, bit for bit; dL/dx = g·scale.

    Examples:
        >>> x = torch.tensor(0.1, requires_grad=True)
        >>> bool(grad_scale(x, 1 / 3) == x), torch.autograd.grad(grad_scale(x, 0.25), x)[0].item()
        (True, 0.25)
    """
    return _GradScale.apply(x, scale)


def adjust_range_to_include_zero(
    range_min: torch.Tensor, range_max: torch.Tensor, n_bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(min', max'): zero on a level, in order; the gradient passes straight through both ends (contract section 2).

    Examples:
        >>> low, high = adjust_range_to_include_zero(torch.tensor([0.5, -1.1]), torch.tensor([2.0, 2.0]), 2)
        >>> [round(end, 4) for end in (*low.tolist(), *high.tolist())]
        [0.0, -1.0333, 2.0, 2.0667]
    """
    return uniform_range(torch.as_tensor(range_min), torch.as_tensor(range_max), Grid(n_bits, False), MIN_THRESHOLD)


def symmetric_quantizer(tensor_data: torch.Tensor, threshold: Any, n_bits: int, sign: bool = False) -> torch.Tensor:
    """Quantize over a symmetric range as the STE quantizers do.

    Args:
        tensor_data: x, floating.
        threshold: One number, or one for each channel in a shape that broadcasts.
        n_bits: b.
        sign: Whether there are levels below zero.

    Raises:
        QuantizerError: the threshold differs along more than one axis, or does not broadcast.

    Examples:
        >>> symmetric_quantizer(torch.tensor([0.3, -9.0]), torch.tensor([1.0]), 2, sign=True).tolist()
        [0.5, -1.0]
    """
    return _symmetric("symmetric_quantizer", tensor_data, threshold, Grid(n_bits, bool(sign)), False, 1.0)


def uniform_quantizer(tensor_data: torch.Tensor, range_min: Any, range_max: Any, n_bits: int) -> torch.Tensor:
    """Quantize over a range with two ends as the STE quantizers do.

    Args:
        tensor_data: x, floating.
        range_min: Lower end: one number, or one for each channel in a shape that broadcasts.
        range_max: Upper end, likewise.
        n_bits: b.

    Raises:
        QuantizerError: the range differs along more than one axis, or does not broadcast.

    Examples:
        >>> uniform_quantizer(torch.tensor([0.3, -9.0]), torch.tensor([-1.0]), torch.tensor([2.0]), 2).tolist()
        [0.0, -1.0]
    """
    return _uniform("uniform_quantizer", tensor_data, range_min, range_max, Grid(n_bits, False), False, 1.0)


def symmetric_lsq_quantizer(
    x: torch.Tensor, thresholds: Any, num_bits: int, sign: bool, min_int: int, max_int: int, scale_factor: float
) -> torch.Tensor:
    """Quantize over a symmetric range as the LSQ quantizers do; ``scale_factor`` scales the threshold's gradient.

    Args:
        x: Floating.
        thresholds: One number, or one for each channel in a shape that broadcasts.
        num_bits: b.
        sign: Whether there are levels below zero.
        min_int: The lowest level.
        max_int: The highest level.
        scale_factor: r.

    Raises:
        QuantizerError: the levels are not those of b bits, or thresholds as for ``symmetric_quantizer``.

    Examples:
        >>> symmetric_lsq_quantizer(torch.tensor([0.3, -9.0]), torch.tensor([1.0]), 2, True, -2, 1, 0.1).tolist()
        [0.5, -1.0]
    """
    grid = full_grid("symmetric_lsq_quantizer", num_bits, bool(sign), min_int, max_int)
    return _symmetric("symmetric_lsq_quantizer", x, thresholds, grid, True, float(scale_factor))


def uniform_lsq_quantizer(
    x: torch.Tensor, min_range: Any, max_range: Any, num_bits: int, min_int: int, max_int: int, scale_factor: float
) -> torch.Tensor:
    """Quantize over a range with two ends as the LSQ quantizers do; ``scale_factor`` scales the gradients of the ends.

    Args:
        x: Floating.
        min_range: Lower end: one number, or one for each channel in a shape that broadcasts.
        max_range: Upper end, likewise.
        num_bits: b.
        min_int: The lowest level, 0.
        max_int: The highest level.
        scale_factor: r.

    Raises:
        QuantizerError: the levels are not those of b bits, or the range as for ``uniform_quantizer``.

    Examples:
        >>> ends = torch.tensor([-1.0]), torch.tensor([2.0])
        >>> uniform_lsq_quantizer(torch.tensor([0.3, -9.0]), *ends, 2, 0, 3, 0.1).tolist()
        [0.0, -1.0]
    """
    grid = full_grid("uniform_lsq_quantizer", num_bits, False, min_int, max_int)
    return _uniform("uniform_lsq_quantizer", x, min_range, max_range, grid, True, float(scale_factor))


def _symmetric(owner: str, x: torch.Tensor, threshold: Any, grid: Grid, *gradient: Any) -> torch.Tensor:
    axis, (threshold,) = _flat(owner, x, threshold)
    ends = symmetric_range(threshold, grid, MIN_THRESHOLD, power_of_two=False)
    return fake_quantize(x, *ends, grid, axis, *gradient)


def _uniform(owner: str, x: torch.Tensor, low: Any, high: Any, grid: Grid, *gradient: Any) -> torch.Tensor:
    axis, (low, high) = _flat(owner, x, low, high)
    return fake_quantize(x, *uniform_range(low, high, grid, MIN_THRESHOLD), grid, axis, *gradient)


def _flat(owner: str, x: torch.Tensor, *parameters: Any) -> tuple[int | None, list[torch.Tensor]]:
    """The channel axis of parameters that broadcast over x, and the parameters in the shape that the kernel takes."""
    tensors = [torch.as_tensor(each, dtype=torch.float32, device=x.device) for each in parameters]
    axis = channel_axis_of(owner, tensors[0].shape, x.shape)
    return axis, [each.reshape(() if axis is None else (-1,)) for each in tensors]
