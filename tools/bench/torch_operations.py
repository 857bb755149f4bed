"""Benchmarks one quantization in PyTorch, forward and backward, against relu, a copy and other packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import trainable_quantizers_torch as tq
from timing import Result, compare
from torch import nn
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.kernels.limits import limited, limits

Case = Callable[[torch.Tensor], torch.Tensor]
WITHOUT = "without numba"


def autodiff_lsq(x: torch.Tensor, threshold: torch.Tensor, factor: float) -> torch.Tensor:
    """LSQ left to autograd, as papers' code and toolkits write it."""
    step = threshold / 128
    step = (step - step * factor).detach() + step * factor
    v = torch.clamp(x / step, -128, 127)
    return ((torch.round(v) - v).detach() + v) * step


def activation(method: str, name: str, params: dict[str, Any]) -> nn.Module:
    """A holder of ours, 8 bits."""
    config = tq.TrainableQuantizerActivationConfig(tq.QuantizationMethod[method], 8, params, True, tq.MIN_THRESHOLD)
    return tq.PytorchTrainableActivationQuantizationHolder(getattr(tq, f"{name}ActivationTrainableQuantizer")(config))


def per_tensor_cases(compiled: bool) -> dict[str, Case]:
    """The cases by name; the first is the baseline."""
    threshold = torch.tensor(2.0, requires_grad=True)
    low, high = (torch.tensor(end, requires_grad=True) for end in (-2.0, 2 * 127 / 128))
    symmetric = {tq.THRESHOLD: 2.0, tq.SIGNED: True}
    uniform = {tq.RANGE_MIN: -2.0, tq.RANGE_MAX: 1.9}
    grid = Grid(8, True)
    cases: dict[str, Case] = {
        "relu": torch.relu,
        "hardtanh": nn.functional.hardtanh,
        "copy": torch.clone,
        "operation, LSQ": lambda x: fake_quantize(x, low, high, grid, None, True, 0.01),
        "operation, STE": lambda x: fake_quantize(x, low, high, grid, None, False),
        "quantizer, LSQ power of two": activation("POWER_OF_TWO", "LSQSymmetric", symmetric),
        "quantizer, LSQ symmetric": activation("SYMMETRIC", "LSQSymmetric", symmetric),
        "quantizer, LSQ uniform": activation("UNIFORM", "LSQUniform", uniform),
        "quantizer, STE symmetric": activation("SYMMETRIC", "STESymmetric", symmetric),
        "autodiff LSQ": lambda x: autodiff_lsq(x, threshold, 0.01),
    }
    if compiled:
        relu = cases["relu"]
        kept = ("relu", "operation, LSQ", "operation, STE", "quantizer, LSQ power of two", "autodiff LSQ")
        return {"relu": relu, **{f"compiled {name}": torch.compile(cases[name], fullgraph=True) for name in kept}}
    scale, zero_point = (torch.tensor([value], requires_grad=True) for value in (2 / 128, 0.0))
    cases["torch learnable"] = lambda x: torch._fake_quantize_learnable_per_tensor_affine(
        x, scale, zero_point, -128, 127, 1.0
    )
    for name in ("operation, LSQ", "quantizer, LSQ power of two"):
        cases[f"{name}, {WITHOUT}"] = cases[name]
    return {**cases, **brevitas_activation()}


def brevitas_activation() -> dict[str, Case]:
    """Brevitas with a learned scale, where it is installed."""
    try:
        from brevitas.core.scaling import ParameterScaling
        from brevitas.inject.enum import ScalingImplType
        from brevitas.nn import QuantIdentity
        from brevitas.quant import Int8ActPerTensorFloat
    except ImportError:
        return {}

    class Learned(Int8ActPerTensorFloat):
        scaling_impl_type = ScalingImplType.PARAMETER
        scaling_init = 2.0

    module = QuantIdentity(act_quant=Learned)
    assert any(isinstance(part, ParameterScaling) for part in module.modules())
    return {"brevitas learned scale": module}


def per_channel_cases(shape: tuple[int, ...], axis: int) -> dict[str, Case]:
    """Weights with their channels on ``axis``."""
    channels = shape[axis]
    low, high = (torch.full((channels,), end, requires_grad=True) for end in (-2.0, 2 * 127 / 128))
    scale, zero_point = (torch.full((channels,), value, requires_grad=True) for value in (2 / 128, 0.0))
    broadcast = [channels if index == axis else 1 for index in range(len(shape))]
    threshold = torch.full(broadcast, 2.0, requires_grad=True)
    config = tq.TrainableQuantizerWeightsConfig(
        tq.QuantizationMethod.POWER_OF_TWO, 8, {tq.THRESHOLD: 2.0}, True, axis, True, tq.MIN_THRESHOLD
    )
    quantizer = tq.LSQSymmetricWeightsTrainableQuantizer(config)
    owner = nn.Module()
    quantizer.initialize_quantization(torch.Size(shape), "weight", owner)
    grid = Grid(8, True)
    return {
        "relu": torch.relu,
        f"operation, LSQ, {WITHOUT}": lambda x: fake_quantize(x, low, high, grid, axis, True, 0.01),
        "operation, LSQ": lambda x: fake_quantize(x, low, high, grid, axis, True, 0.01),
        "operation, STE": lambda x: fake_quantize(x, low, high, grid, axis, False),
        "quantizer, LSQ power of two": quantizer,
        "autodiff LSQ": lambda x: autodiff_lsq(x, threshold, 0.01),
        "torch learnable": lambda x: torch._fake_quantize_learnable_per_channel_affine(
            x, scale, zero_point, axis, -128, 127, 1.0
        ),
        **torchao_weights(shape, axis),
    }


def torchao_weights(shape: tuple[int, ...], axis: int) -> dict[str, Case]:
    """Torchao with a learned range, which takes matrices with channels on axis 0."""
    if len(shape) != 2 or axis != 0:
        return {}
    try:
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer
    except ImportError:
        return {}
    config = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_dynamic=False, range_learning=True)
    module = IntxFakeQuantizer(config)
    from torchao.quantization.qat.api import initialize_fake_quantizers

    initialize_fake_quantizers(module, (torch.randn(shape),))
    return {"torchao range learning": module}


def time_cases(cases: dict[str, Case], x: torch.Tensor, seconds: float) -> Result:
    """Forward and backward of each on a leaf like ``x``."""
    leaf, g = x.requires_grad_(), torch.randn_like(x)

    def step(name: str, case: Case) -> Callable[[], None]:
        def run() -> None:
            with limited(numba=limits.numba and not name.endswith(WITHOUT)):
                output = case(leaf)
                getattr(output, "value", output).backward(g)
            leaf.grad = None

        return run

    return compare({name: step(name, case) for name, case in cases.items()}, seconds)


def run(threads: int, quick: bool) -> dict[str, Result]:
    """Run every benchmark of this group; returns its tables."""
    torch.set_num_threads(threads)
    seconds = 0.5 if quick else 4.0
    results = {}
    for exponent in range(3, 6 if quick else 9):
        x = torch.randn(10**exponent)
        results[f"per tensor, {x.numel():.0e} elements"] = time_cases(per_tensor_cases(False), x, seconds)
    activations = torch.randn(64, 100, 10 if quick else 1000)
    results["per tensor, 6.4 M activations"] = time_cases(per_tensor_cases(False), activations, seconds)
    last = torch.randn(64, 100, 32, 32).to(memory_format=torch.channels_last)
    results["per tensor, channels last"] = time_cases(per_tensor_cases(False), last, seconds)
    results["per tensor, compiled, 6.4 M activations"] = time_cases(per_tensor_cases(True), activations, seconds)
    for shape, axis in (((256, 256, 3, 3), 0), ((256, 256, 3, 3), 1), ((1024, 1024), 0), ((64, 1, 3, 3), 0)):
        name = f"per channel, weights {'x'.join(map(str, shape))}, axis {axis}"
        results[name] = time_cases(per_channel_cases(shape, axis), 0.1 * torch.randn(shape), seconds)
    return results
