"""Quantizers in the terms that exporters know: plain operations, or the standard operators of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper, pytorch_quantizers
from mct_quantizers.pytorch.quantizer_utils import lut_quantizer
from torch import nn
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.grid import Grid

from trainable_quantizers_torch.graph.runtime import take_over
from trainable_quantizers_torch.layers.stateless import call_with

OPSET = 20
_WIDEST = 8


class _Quantization(nn.Module):
    """The grid of a quantizer, in the shape in which it meets its tensor.

    Args:
        scale: One, or one per channel.
        zero_point: Likewise.
        lowest: The lowest level.
        highest: The highest level.
        axis: The axis of the channels; None for one grid.
    """

    def __init__(self, scale: Any, zero_point: Any, lowest: int, highest: int, axis: int | None) -> None:
        super().__init__()
        self.axis, self.lowest, self.highest = axis, lowest, highest
        scale, zero_point = torch.as_tensor(scale).float(), torch.as_tensor(zero_point).int()
        self.register_buffer("scale", scale.reshape(() if axis is None else -1))
        self.register_buffer("zero_point", zero_point.reshape(() if axis is None else -1))
        self.ends: list[float] | None = None
        if axis is None and highest - lowest < 2**_WIDEST - 1:
            step, zero = np.float32(scale.item()), int(zero_point)
            self.ends = [float((level - zero) * step) for level in (lowest, highest)]

    def _along(self, part: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return part if self.axis is None else part.reshape([-1 if at == self.axis else 1 for at in range(x.ndim)])


class PlainQuantization(_Quantization):
    """y = (clamp(round(x·(1/scale)) + zero, lowest, highest) - zero)·scale, bit for bit what the kernel computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized ``x``."""
        scale, zero_point = self._along(self.scale, x), self._along(self.zero_point, x)
        levels = torch.clamp(torch.round(x.float() * (1 / scale)) + zero_point, self.lowest, self.highest)
        return ((levels - zero_point) * scale).to(x.dtype)


class FakeQuantization(_Quantization):
    """PyTorch's own fake-quantize operator, a single node in a graph."""

    def __init__(self, scale: Any, zero_point: Any, *grid: Any) -> None:
        super().__init__(scale, zero_point, *grid)
        self.numbers = (float(self.scale), int(self.zero_point)) if self.axis is None else None  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized ``x``."""
        ends = (self.lowest, self.highest)
        if self.numbers is None:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.axis, *ends)
        return torch.fake_quantize_per_tensor_affine(x, *self.numbers, *ends)


class StandardQuantization(_Quantization):
    """Clip, QuantizeLinear, DequantizeLinear: y = (clamp(round(x/scale) + zero, lowest, highest) - zero)·scale.

    Of 8 bits, the integers themselves saturate. Levels are rounded half to even.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized ``x``, when it is exported."""
        dtype = torch.int8 if self.lowest < 0 else torch.uint8
        if self.ends is not None:
            x = torch.clamp(x, *self.ends)
        elif self.highest - self.lowest < 2**_WIDEST - 1:
            scale, zero_point = self._along(self.scale, x), self._along(self.zero_point, x)
            low, high = ((level - zero_point) * scale for level in (self.lowest, self.highest))
            x = torch.minimum(torch.maximum(x, low), high)
        grid = (self.scale, self.zero_point.to(dtype))
        attributes = {} if self.axis is None else {"axis": self.axis}
        levels = _operator("QuantizeLinear", (x, *grid), x.shape, dtype, attributes)
        return _operator("DequantizeLinear", (levels, *grid), x.shape, torch.float32, attributes)


class TableQuantization(nn.Module):
    """The look-up table of an activation: y = c/2^(8-s)·t for the entry c nearest to x/t·2^(8-s).

    Args:
        quantizer: The one of mct-quantizers.
    """

    def __init__(self, quantizer: pytorch_quantizers.ActivationLutPOTInferableQuantizer) -> None:
        super().__init__()
        self.register_buffer("levels", torch.as_tensor(quantizer.lut_values).float())
        self.threshold, self.signed = quantizer.threshold, quantizer.signed
        self.grid = (quantizer.lut_values_bitwidth, quantizer.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized ``x``."""
        return lut_quantizer(x.float(), self.levels, self.signed, self.threshold, *self.grid).to(x.dtype)


class IntegerWeights(nn.Module):
    """A layer whose weights are stored as integers: w = (level - zero)·scale.

    Args:
        layer: The layer.
        weights: (levels, scale, zero point, axis of the channels or None) by name.
    """

    def __init__(self, layer: nn.Module, weights: dict[str, tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.layer = layer
        self.axes: dict[str, int | None] = {}
        for name, (levels, scale, zero_point, axis) in weights.items():
            setattr(layer, name, nn.Parameter(torch.empty(0)))  # the float weight is not written
            self.axes[name] = axis  # type: ignore[assignment]
            for part, tensor in (("levels", levels), ("scale", scale), ("zero_point", zero_point)):
                self.register_buffer(f"{name}_{part}", tensor)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, when it is exported."""
        return call_with(self.layer, {name: self._weight(name) for name in self.axes}, args, kwargs)

    def _weight(self, name: str) -> torch.Tensor:
        levels, *grid = (getattr(self, f"{name}_{part}") for part in ("levels", "scale", "zero_point"))
        axis = self.axes[name]
        attributes = {} if axis is None else {"axis": axis}
        return _operator("DequantizeLinear", (levels, *grid), levels.shape, torch.float32, attributes)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the layer that it lacks, for forwards that read ``self.fc.weight``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            held = name in self.__dict__.get("axes", ())
            return self._weight(name) if held else getattr(super().__getattr__("layer"), name)


def with_standard_operators(model: nn.Module) -> nn.Module:
    """``model``, changed in place, with standard operators in place of its quantizers.

    Raises:
        QuantizerError: a quantizer that they cannot express.
    """
    return _replaced(model, _integer_weights, StandardQuantization, _WIDEST)


def with_plain_operations(model: nn.Module) -> nn.Module:
    """``model``, changed in place: quantized weights as they are, and activations quantized by plain operations.

    Raises:
        QuantizerError: a quantizer of another kind than those of this package's conversion.
    """
    return _replaced(model, _constant_weights, PlainQuantization, 32)


def with_fake_quantization(model: nn.Module) -> nn.Module:
    """``model``, changed in place: quantized weights as they are, and activations quantized by one operator each.

    Raises:
        QuantizerError: a quantizer of another kind than those with evenly spaced levels.
    """
    return _replaced(model, _constant_weights, FakeQuantization, 32)


def _replaced(model: nn.Module, of_wrapper: Any, of_tensor: Any, widest: int) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, PytorchQuantizationWrapper):
            if not module.is_str_attr:
                raise _not_expressible(name, "constants of a function")
            take_over(module, of_wrapper(name, module))
        elif isinstance(module, PytorchActivationQuantizationHolder):
            quantizer = module.activation_holder_quantizer
            if isinstance(quantizer, pytorch_quantizers.ActivationLutPOTInferableQuantizer):
                take_over(module, TableQuantization(quantizer))
                continue
            axis = quantizer.channel_axis if getattr(quantizer, "per_channel", False) else None
            take_over(module, of_tensor(*_grid(name, quantizer, widest), axis))
    return model


def _constant_weights(name: str, wrapper: PytorchQuantizationWrapper) -> nn.Module:
    for key, quantizer in wrapper.weights_quantizers.items():
        quantized = quantizer(getattr(wrapper, key).detach())
        setattr(wrapper.layer, key, nn.Parameter(quantized, requires_grad=False))
    return wrapper.layer


def _integer_weights(name: str, wrapper: PytorchQuantizationWrapper) -> nn.Module:
    weights = {}
    for key, quantizer in wrapper.weights_quantizers.items():
        scale, zero_point, lowest, highest = _grid(name, quantizer, _WIDEST)
        axis = quantizer.channel_axis if quantizer.per_channel else None
        weight = quantizer(getattr(wrapper, f"{key}").detach().float())
        shape = [1] * weight.ndim
        if axis is not None:
            shape[axis] = -1
        scale, zero_point = (torch.as_tensor(part).reshape(-1) for part in (scale, zero_point))
        levels = torch.round(weight * (1 / scale).reshape(shape)) + zero_point.reshape(shape)
        dtype = torch.int8 if lowest < 0 else torch.uint8
        stored = levels.clamp(lowest, highest).to(dtype)
        if axis is None:
            scale, zero_point = scale[0], zero_point[0]
        weights[key] = (stored, scale.float(), zero_point.to(dtype), axis)
    return IntegerWeights(wrapper.layer, weights)


def _grid(name: str, quantizer: Any, widest: int) -> tuple[Any, Any, int, int]:
    """Scale, zero point, lowest and highest level."""
    if isinstance(
        quantizer, pytorch_quantizers.WeightsLUTSymmetricInferableQuantizer
    ):  # entries are levels of more bits
        grid = Grid(quantizer.lut_values_bitwidth, signed=True)
        scale = torch.tensor(quantizer.threshold) / grid.steps_per_threshold
        return scale, torch.zeros_like(scale), grid.lowest, grid.highest
    scale = getattr(quantizer, "scales", getattr(quantizer, "scale", None))
    zero_point = getattr(quantizer, "zero_points", getattr(quantizer, "zero_point", None))
    lowest, highest = (getattr(quantizer, f"{end}_quantized_domain", None) for end in ("min", "max"))
    if scale is None or zero_point is None or lowest is None or highest is None:
        raise _not_expressible(name, type(quantizer).__name__)
    if highest - lowest >= 2**widest:
        raise _not_expressible(name, f"{quantizer.num_bits} bits")
    return scale, zero_point, int(lowest), int(highest)


def _not_expressible(name: str, what: str) -> Exception:
    rule = "evenly spaced levels of at most 8 bits in layers"
    return invalid("export", f"quantizer of {name!r}", rule, what, "pass operators='mct'")


def _operator(name: str, inputs: tuple[Any, ...], shape: Any, dtype: torch.dtype, attributes: dict[str, int]) -> Any:
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=shape, version=OPSET)
