"""The interface through which the checks run a framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid


@dataclass(frozen=True)
class Run:
    """One forward and backward: the output, dL/dx, and dL/dvariable where there is one (None where not)."""

    output: np.ndarray
    grad_x: np.ndarray
    gradients: dict[str, np.ndarray | None]


class FrameworkAdapter(Protocol):
    """One way of running quantizers: a framework, eager or compiled."""

    name: str
    """Shown in reports: ``torch``, ``torch.compile``, ``keras``, ``tf.function``, ``XLA``."""
    compiled: bool
    """Whether ``run`` compiles; the checks of everything else are left to the eager adapter."""
    reference: bool
    """Whether every width is tried; to others it is a number that the reference has tried."""
    compiles_fast: bool
    """Whether compiling takes well below a second."""
    exact: bool
    """Whether outputs are bit for bit the deployed ones, or within an ulp of the step per level off the ties."""
    base_class: type
    """Base class of the framework's trainable quantizers."""
    float_types: tuple[str, ...]
    """Names of the floating types that inputs may have."""

    def active(self) -> AbstractContextManager[Any]:
        """Entered around every check."""

    def tensor(self, array: np.ndarray, dtype: str = "float32") -> Any:
        """A tensor of the framework."""

    def weight(self, array: np.ndarray) -> Any:
        """A weight of the framework, which an optimizer could write."""

    def read(self, tensor: Any) -> np.ndarray:
        """Its values as float32, from any type; integers stay integers."""

    def dtype(self, tensor: Any) -> str:
        """The name of its type."""

    def build(self, quantizer: Any, tensor_shape: tuple[int, ...] | None) -> Any:
        """Initialize ``quantizer`` on a layer of its own; returns the layer."""

    def assign(self, quantizer: Any, values: Mapping[str, np.ndarray]) -> None:
        """Give variables new values."""

    def compile(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function as this adapter runs it; itself when eager."""

    def run(self, quantizer: Any, x: np.ndarray, g: np.ndarray, training: bool = True, dtype: str = "float32") -> Run:
        """Forward and backward of Σ g·quantizer(x)."""

    dense_axis: int
    """Axis of a dense layer's weight for its output channels."""

    def dense(self, quantizer: Any, weight: np.ndarray, bias: np.ndarray, grid: AccumulatorGrid) -> Any:
        """A dense layer whose weight has the quantizer, and whose sums lie on the grid."""

    def run_dense(self, layer: Any, x: np.ndarray, g: np.ndarray, training: bool) -> Run:
        """Forward and backward of Σ g·layer(x), eager; the gradients are those of ``"weight"`` and ``"bias"``."""

    def deployed_dense(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """The output of the layer once it is converted, possibly in place."""

    def save_and_load(self, quantizer: Any, layer: Any, fresh: Any, tensor_shape: tuple[int, ...] | None) -> Any:
        """Write the layer's variables to a file and read them into ``fresh``, built on a layer of its own."""
