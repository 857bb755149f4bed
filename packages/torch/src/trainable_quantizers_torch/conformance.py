"""Adapters that run the conformance suite in PyTorch: eager, compiled, and on a GPU if there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainable_quantizers_core.conformance.adapter import Run
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid

from trainable_quantizers_torch.kernels.limits import limited, limits
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer


class TorchAdapter:
    """Eager PyTorch on a device, on a CPU also as large tensors are worked on, or ``torch.compile``."""

    base_class = BasePytorchTrainableQuantizer
    compiles_fast = False
    dense_axis = 0
    float_types = ("float32", "float16", "bfloat16", "float64")

    def __init__(self, device: str = "cpu", compiled: bool = False, large: str = "") -> None:
        self.name = f"torch{'.compile' if compiled else ''}{'' if device == 'cpu' else f' on {device}'}"
        self.name += f" {large}" if large else ""
        self.device = device
        self.compiled = compiled
        self.large = large
        self.reference = not large
        self._compiled: tuple[Any, bool, Callable[[Any], Any]] | None = None
        self.exact = not compiled and device == "cpu"

    def active(self) -> AbstractContextManager[Any]:
        """The adapter's way of working on large tensors, if it has one."""
        if not self.large:
            return nullcontext()
        return limited(small=0, block=64, thread=16, row=0, numba=self.large == "by numba")

    def tensor(self, array: np.ndarray, dtype: str = "float32") -> torch.Tensor:
        """A tensor on the adapter's device."""
        return torch.tensor(array, dtype=getattr(torch, dtype), device=self.device)

    def weight(self, array: np.ndarray) -> Any:
        """A parameter on the adapter's device."""
        return torch.nn.Parameter(self.tensor(array))

    def read(self, tensor: torch.Tensor) -> np.ndarray:
        """Its values."""
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    def dtype(self, tensor: torch.Tensor) -> str:
        """Such as ``float32``."""
        return str(tensor.dtype).removeprefix("torch.")

    def build(self, quantizer: Any, tensor_shape: tuple[int, ...] | None) -> torch.nn.Module:
        """A module that owns the quantizer's variables."""
        module = torch.nn.Module()
        quantizer.initialize_quantization(None if tensor_shape is None else torch.Size(tensor_shape), "x", module)
        module.to(self.device)
        return module

    def assign(self, quantizer: Any, values: Mapping[str, np.ndarray]) -> None:
        """Write into the variables."""
        with torch.no_grad():
            for name, value in values.items():
                variable = quantizer.get_quantizer_variable(name)
                variable.copy_(torch.tensor(value).reshape(variable.shape))

    def compile(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """With the framework's own compiler, without graph breaks."""
        if not self.compiled:
            return function
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)

    def call(self, quantizer: Any, training: bool) -> Callable[[Any], Any]:
        """The call of a quantizer, compiled once for all that follow: what they compute may depend on its variables."""
        if self._compiled is None or self._compiled[0] is not quantizer or self._compiled[1] is not training:
            self._compiled = quantizer, training, self.compile(lambda tensor: quantizer(tensor, training))
        return self._compiled[2]

    def run(self, quantizer: Any, x: np.ndarray, g: np.ndarray, training: bool = True, dtype: str = "float32") -> Run:
        """Autograd on a leaf tensor."""
        inputs = self.tensor(x, dtype).requires_grad_()
        variables = {name: quantizer.get_quantizer_variable(name) for name in quantizer.quantizer_parameters}
        for variable in variables.values():
            variable.grad = None
        output = self.call(quantizer, training)(inputs)
        output.backward(self.tensor(g, self.dtype(output)))
        shaped = getattr(quantizer, "shaped", lambda tensor: tensor)
        gradients = {name: None if v.grad is None else self.read(shaped(v.grad)) for name, v in variables.items()}
        return Run(self.read(output), self.read(inputs.grad), gradients)

    def dense(self, quantizer: Any, weight: np.ndarray, bias: np.ndarray, grid: AccumulatorGrid) -> Any:
        """A wrapped ``Linear``."""
        layer = torch.nn.Linear(*weight.shape[::-1])
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        return PytorchTrainableQuantizationWrapper(layer, {"weight": quantizer}, accumulator=grid).to(self.device)

    def run_dense(self, layer: Any, x: np.ndarray, g: np.ndarray, training: bool) -> Run:
        """Autograd, without a compiler."""
        inputs, variables = self.tensor(x).requires_grad_(), (layer.layer.weight, layer.layer.bias)
        output = layer.train(training)(inputs)
        grad_x, *gradients = torch.autograd.grad(output, (inputs, *variables), self.tensor(g))
        named: dict[str, np.ndarray | None] = dict(zip(("weight", "bias"), map(self.read, gradients), strict=True))
        return Run(self.read(output), self.read(grad_x), named)

    def deployed_dense(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """Of the wrapper of mct-quantizers."""
        return self.read(layer.eval().convert_to_inferable_quantizers()(self.tensor(x)))

    def save_and_load(self, quantizer: Any, layer: Any, fresh: Any, tensor_shape: tuple[int, ...] | None) -> Any:
        """Through ``torch.save`` of the state dictionary."""
        restored = self.build(fresh, tensor_shape)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.pt"
            torch.save(layer.state_dict(), path)
            restored.load_state_dict(torch.load(path), strict=True, assign=True)
        return restored


def adapters() -> list[TorchAdapter]:
    """The ways of running PyTorch on this machine, the reference first."""
    found = [TorchAdapter(), TorchAdapter(large="in blocks"), TorchAdapter(compiled=True)]
    if limits.numba:
        found.append(TorchAdapter(large="by numba"))
    if torch.cuda.is_available():
        found.append(TorchAdapter("cuda"))
    return found
