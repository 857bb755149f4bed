"""The names of the Model Compression Toolkit's ``trainable_infrastructure.common``, on the classes of this package.

One module has them all. ``trainable_quantizers_keras.compat`` and ``trainable_quantizers_torch.compat`` add the names
of the toolkit's ``keras`` and ``pytorch``. See docs/migration-mct.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trainable_quantizers_core.constants import GROUP, VAR
from trainable_quantizers_core.enums import TrainingMethod, VariableGroup
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.annealing import BaseLinearAnnealingScheduler
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class

__all__ = [
    "FQ_MAX",
    "FQ_MIN",
    "GROUP",
    "THRESHOLD_TENSOR",
    "VAR",
    "WEIGHTS_QUANTIZATION_PARAMS",
    "BaseLinearAnnealingScheduler",
    "BaseTrainableQuantizer",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "get_threshold_reshape_shape",
    "get_total_grad_steps",
    "get_trainable_quantizer_class",
]

FQ_MIN = "min"
"""Name under which a quantizer of the toolkit keeps the lower end of its range."""
FQ_MAX = "max"
"""Name under which a quantizer of the toolkit keeps the upper end of its range."""
THRESHOLD_TENSOR = "ptq_threshold_tensor"
"""Name under which a quantizer of the toolkit keeps its threshold."""
WEIGHTS_QUANTIZATION_PARAMS = "weights_quantization_params"
"""Name of the field of a configuration."""


def get_threshold_reshape_shape(tensor_shape: Sequence[int], quant_axis: int, quant_axis_dim: int) -> list[int]:
    """The shape in which one threshold for each channel broadcasts over a tensor.

    Args:
        tensor_shape: That of the tensor.
        quant_axis: Channel axis; negative counts from the end.
        quant_axis_dim: Number of channels.

    Raises:
        QuantizerError: the tensor has no such axis.

    Examples:
        >>> get_threshold_reshape_shape((8, 3, 5, 5), -4, 8)
        [8, 1, 1, 1]
    """
    rank = len(tensor_shape)
    if not -rank <= quant_axis < rank:
        advice = "name the channel axis"
        raise invalid("get_threshold_reshape_shape", "quant_axis", f"in {-rank}..{rank - 1}", quant_axis, advice)
    shape = [1] * rank
    shape[quant_axis] = quant_axis_dim
    return shape


def get_total_grad_steps(representative_data_gen: Callable[[], Iterable[Any]]) -> int:
    """Number of batches of representative data, counted by iterating over them.

    Examples:
        >>> get_total_grad_steps(lambda: iter("abc"))
        3
    """
    return sum(1 for _ in representative_data_gen())


def channel_axis_of(owner: str, parameters: Sequence[int], tensor: Sequence[int | None]) -> int | None:
    """The axis of a tensor along which broadcast parameters differ; None if they are the same for all of it.

    Args:
        owner: Who asks, for messages.
        parameters: Shape of the parameters.
        tensor: Shape of the tensor; None is an axis of unknown length.

    Raises:
        QuantizerError: they differ along more than one axis, or do not broadcast.

    Examples:
        >>> channel_axis_of("f", (4, 1, 1), (2, 4, 3, 3)), channel_axis_of("f", (1,), (4, 3))
        (1, None)
    """
    offset = len(tensor) - len(parameters)
    varied = [(axis + offset, size) for axis, size in enumerate(parameters) if size != 1]
    if not varied:
        return None
    axis, size = varied[0]
    if len(varied) > 1 or axis < 0 or tensor[axis] not in (None, size):
        rule = f"one number, or one for each index of one axis of a tensor of shape {tuple(tensor)}"
        raise invalid(owner, "shape of the parameters", rule, tuple(parameters), "see get_threshold_reshape_shape")
    return axis


def full_grid(owner: str, num_bits: int, signed: bool, min_int: int, max_int: int) -> Grid:
    """The grid of a number of bits; the caller's limits must be those of this grid.

    Raises:
        QuantizerError: the limits differ from those of the grid.

    Examples:
        >>> full_grid("f", 4, True, -8, 7)
        Grid(num_bits=4, signed=True)
    """
    grid = Grid(num_bits, signed)
    if (min_int, max_int) != (grid.lowest, grid.highest):
        rule = f"{(grid.lowest, grid.highest)}, the levels of {num_bits} bits"
        raise invalid(owner, "(min_int, max_int)", rule, (min_int, max_int), "a grid with fewer levels has fewer bits")
    return grid
