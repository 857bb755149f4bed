"""The wrapper of a module whose weights are quantized by trainable quantizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mct_quantizers import BaseInferableQuantizer, PytorchQuantizationWrapper
from mct_quantizers.common.constants import POSITIONAL_WEIGHT
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid, nearest
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid, worst_bits

from trainable_quantizers_torch.kernels.accumulator import limit_weight, round_bias, step_of_bias
from trainable_quantizers_torch.layers.mixed import mix
from trainable_quantizers_torch.layers.norm import FoldedNorm
from trainable_quantizers_torch.layers.read import showing
from trainable_quantizers_torch.layers.state import StructuredState
from trainable_quantizers_torch.layers.stateless import call_with, without_modes


class PytorchTrainableQuantizationWrapper(StructuredState, PytorchQuantizationWrapper):
    """The wrapper of mct-quantizers, with trainable quantizers; the weights stay parameters of the wrapped module.

    A forward runs the module with quantized weights in place of its own and writes nothing, so the wrapper can be
    copied, pickled, averaged, moved, reloaded, and called by several threads at any time. It is also an instance of
    the module's class and has the module's attributes; reading a weight gives the quantized one.

    Args:
        module: The module, or a function together with ``weight_values``.
        weights_quantizers: Quantizers by name of the parameter, or by position of a constant argument.
        weight_values: Constant arguments of a function, by position.
        op_call_args: Further positional arguments of each call.
        op_call_kwargs: Further keyword arguments of each call.
        is_inputs_as_list: Whether the function takes its tensors as one list.
        accumulator: The grid of the module's sums, on which its bias is to lie, and the bits that they do not exceed;
            None leaves the bias in float.
        folded_norm: The batch norm behind the module that folds into it at conversion; the module has a bias then.

    Raises:
        QuantizerError: the module has no parameter of a name, or a key or quantizer is of the wrong type; or weights
            have no power-of-two quantizer, for ``accumulator``.

    Examples:
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.POWER_OF_TWO, 4, {THRESHOLD: 1.0}, True, 0, True, MIN_THRESHOLD)
        >>> layer = PytorchTrainableQuantizationWrapper(
        ...     torch.nn.Linear(3, 2), {"weight": LSQSymmetricWeightsTrainableQuantizer(config)})
        >>> sorted(layer.state_dict())
        ['_extra_state', 'layer.bias', 'layer.weight', 'weight_threshold']
        >>> type(layer.convert_to_inferable_quantizers()).__name__
        'PytorchQuantizationWrapper'
    """

    def __init__(
        self,
        module: torch.nn.Module | Callable[..., Any],
        weights_quantizers: Mapping[Any, BaseInferableQuantizer],
        weight_values: Mapping[int, torch.Tensor] | None = None,
        op_call_args: list[Any] | None = None,
        op_call_kwargs: Mapping[str, Any] | None = None,
        is_inputs_as_list: bool = False,
        accumulator: AccumulatorGrid | None = None,
        folded_norm: FoldedNorm | None = None,
    ) -> None:
        _check(module, weights_quantizers, weight_values)
        if accumulator is not None:
            owner, bias = PytorchTrainableQuantizationWrapper.__name__, getattr(module, "bias", None)
            accumulator.check(owner, module, isinstance(bias, torch.nn.Parameter), weights_quantizers)
        super().__init__(
            module,
            dict(weights_quantizers),
            None if weight_values is None else dict(weight_values),
            op_call_args,
            None if op_call_kwargs is None else dict(op_call_kwargs),
            is_inputs_as_list,
        )
        self.accumulator = accumulator
        self.folded_norm = folded_norm
        if self.is_str_attr and isinstance(module, torch.nn.Module):
            mix(self, type(module))

    def _set_weights_vars(self, is_training: bool = True) -> None:
        """Create the quantizers' variables (the parent calls this once, from its constructor)."""
        for key, quantizer in self.weights_quantizers.items():
            if not self.is_str_attr:
                self.register_parameter(
                    f"{POSITIONAL_WEIGHT}_{key}", torch.nn.Parameter(self.weight_values[key], requires_grad=False)
                )
            name = key if self.is_str_attr else f"{POSITIONAL_WEIGHT}_{key}"
            if _quantizes(quantizer, self.float_weight(key)):  # in another wrapper
                for variable in quantizer.quantizer_parameters:
                    _share(self, f"{name}_{variable}", quantizer.get_quantizer_variable(variable))
                continue
            quantizer.initialize_quantization(self.float_weight(key).shape, name, self)
            bind = getattr(quantizer, "bind", None)
            if bind is not None:
                bind(self)

    def _quantizers_by_key(self) -> Mapping[Any, Any]:
        return self.weights_quantizers

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """As PyTorch does, but refuse a state that names the weight as a float or converted model does."""
        for key in self.weights_quantizers if self.is_str_attr else ():
            if f"{prefix}{key}" in state_dict and f"{prefix}layer.{key}" not in state_dict:
                rule = "those of a prepared model"
                advice = "load the state of a float model into the float model, and prepare that"
                errors = arguments[-1]
                errors.append(str(invalid(type(self).__name__, "names of weights", rule, f"{prefix}{key}", advice)))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def float_weight(self, key: str | int) -> torch.Tensor:
        """The weight of the module as it is, or a constant.

        Raises:
            QuantizerError: the module now computes it from others.
        """
        if not isinstance(key, str):
            return getattr(self, f"{POSITIONAL_WEIGHT}_{key}")
        held = self.layer._parameters
        if key not in held and (
            "parametrizations" in self.layer._modules or any(name.startswith(f"{key}_") for name in held)
        ):
            advice = (
                "parametrize and prune before prepare, or make it a parameter again by prune.remove or "
                "parametrize.remove_parametrizations"
            )
            raise invalid(type(self).__name__, f"layer.{key}", "a parameter", "one computed from others", advice)
        return getattr(self.layer, key)

    def get_weights_vars(self) -> list[tuple[str | int, torch.Tensor, BaseInferableQuantizer]]:
        """(key, weight, quantizer) of each quantized weight, as it is quantized: a norm that folds is in it."""
        return [(key, self._whole_weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def _whole_weight(self, key: str | int) -> torch.Tensor:
        norm: FoldedNorm | None = self.__dict__.get("folded_norm")
        return self.float_weight(key) if norm is None else norm.weight(self.layer)

    def _whole_bias(self) -> torch.Tensor:
        norm: FoldedNorm | None = self.__dict__.get("folded_norm")
        return self.layer.bias if norm is None else norm.bias(self.layer)

    def get_quantized_weights(self) -> dict[Any, torch.Tensor]:
        """The quantized weights by key, as the next forward uses them."""
        with without_modes():
            found = {key: self._quantized(weight, quantizer) for key, weight, quantizer in self.get_weights_vars()}
            grid, norm = self._grid_of_bias(), self.folded_norm
            if norm is not None and norm.normalizes:
                found["bias"] = norm.scaled_bias(self.layer)
            elif grid is not None:
                found["bias"] = self._rounded_bias(grid, self.training)
            elif norm is not None:
                found["bias"] = norm.bias(self.layer)
            return found

    def _grid_of_bias(self) -> AccumulatorGrid | None:
        grid: AccumulatorGrid | None = self.__dict__.get("accumulator")
        return grid if grid is not None and grid.bias and self.layer.bias is not None else None

    def _rounded_bias(self, grid: AccumulatorGrid, training: bool) -> torch.Tensor:
        (quantizer,) = self.weights_quantizers.values()
        bias = self._whole_bias()
        step = step_of_bias(quantizer.step(), bias.numel())
        coarsest = grid.input_step(torch.maximum)
        finest = grid.finest_of(coarsest, torch.minimum)
        rounded = round_bias(bias, step * coarsest, finest, grid.largest_bias)
        return quantizer.blended(bias, rounded) if training and quantizer.schedule is not None else rounded

    def _bias_levels(self, grid: AccumulatorGrid, quantizer: Any) -> torch.Tensor:
        """The bias in finest steps, per weight channel; the largest bias if the channels differ from the bias's."""
        channels = self.float_weight(next(iter(self.weights_quantizers))).shape[grid.axis(quantizer)]
        if self._grid_of_bias() is None:
            return torch.zeros(channels, device=quantizer.step().device)
        bias = self._rounded_bias(grid, False).detach().float()
        levels = (bias / (step_of_bias(quantizer.step(), bias.numel()) * grid.input_step(torch.minimum))).abs()
        return levels if levels.numel() == channels else levels.max().expand(channels)

    def _limited(self, weight: torch.Tensor, quantizer: Any, grid: AccumulatorGrid, training: bool) -> torch.Tensor:
        axis = grid.axis(quantizer) or 0
        if grid.always_holds(quantizer, weight.numel() // max(weight.shape[axis], 1)):
            return weight
        room = grid.room(self._bias_levels(grid, quantizer))
        where = (axis, quantizer.specification.grid, grid.levels)
        limited = limit_weight(weight, quantizer.step(), room, *where)
        return quantizer.blended(weight, limited) if training and quantizer.schedule is not None else limited

    def _quantized(self, weight: torch.Tensor, quantizer: BaseInferableQuantizer) -> torch.Tensor:
        grid = self.__dict__.get("accumulator")
        if grid is not None and grid.bits is not None:
            weight = self._limited(weight, quantizer, grid, self.training)
        trains = isinstance(quantizer, BaseTrainableQuantizer)
        return quantizer(weight, self.training) if trains else quantizer(weight)

    @torch.no_grad()
    def accumulator_bits(self) -> int | None:
        """Bits of two's complement that its sums need in the worst case, bias included; None if they lie on no grid."""
        grid = self.accumulator
        if grid is None or any(isinstance(each, float) for each in grid.inputs):
            return None
        ((key, _, quantizer),) = self.get_weights_vars()
        axis = grid.axis(quantizer)
        if axis is None:
            return None
        rows = self.get_quantized_weights()[key].double().movedim(axis, 0).flatten(1)
        levels = (rows / quantizer.step().reshape(-1, 1)).cpu().numpy().astype(np.int64)
        bias = self._bias_levels(grid, quantizer).cpu().numpy().astype(np.int64)
        return worst_bits(levels, bias, *grid.levels)

    @torch.no_grad()
    def sums(self, x: torch.Tensor) -> torch.Tensor:
        """The module's sums for an input on its grid, bias included, in steps; for ``accumulator_bits``."""
        grid: Any = self.accumulator
        ((key, _, quantizer),) = self.get_weights_vars()
        step, weight = grid.input_step(torch.minimum), self.get_quantized_weights()[key].float()
        levels = {key: weight / quantizer.broadcast(quantizer.step(), weight)}
        if self._grid_of_bias() is not None:
            bias = self._rounded_bias(grid, False).float()
            levels["bias"] = bias / (step_of_bias(quantizer.step(), bias.numel()) * step)
        module = copy.copy(self.layer)
        module._parameters = {**module._parameters, **{name: torch.nn.Parameter(q) for name, q in levels.items()}}
        with without_modes(), torch.autocast(x.device.type, enabled=False):
            return module.forward(x.float() / step)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output with its weights quantized."""
        quantized = self.get_quantized_weights()
        kwargs = {**self.op_call_kwargs, **kwargs}
        if self.is_str_attr:
            inputs = (list(args),) if self.is_inputs_as_list else args
            result = call_with(self.layer, quantized, (*inputs, *self.op_call_args), kwargs)
            if self.folded_norm is None or not self.folded_norm.normalizes:
                return result
            with without_modes():
                return self.folded_norm.apart(result)
        tensors = list(args)
        for position in sorted(quantized):
            tensors.insert(position, quantized[position])
        inputs = (tensors,) if self.is_inputs_as_list else tuple(tensors)
        return self.layer(*inputs, *self.op_call_args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the layer that the wrapper lacks; a weight is quantized as the layer uses it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None:
                raise
            quantizer = self.__dict__.get("weights_quantizers", {}).get(name)
            with without_modes():
                value = getattr(layer, name)
                grid = self._grid_of_bias() if name == "bias" else None
                if grid is not None:
                    quantized = self._rounded_bias(grid, self.training)
                elif quantizer is not None:
                    quantized = self._quantized(self._whole_weight(name), quantizer)
                elif name == "bias" and self.__dict__.get("folded_norm") is not None:
                    quantized = self._whole_bias()
                else:
                    return value
            return showing(quantized, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set attributes that only the layer has on the layer; setting a weight sets the float one."""
        state = self.__dict__
        layer = state.get("_modules", {}).get("layer")
        own = (state, state.get("_parameters", ()), state.get("_buffers", ()), state.get("_modules", ()))
        if isinstance(layer, torch.nn.Module) and not any(name in names for names in own):
            theirs = (vars(layer), layer._parameters, layer._buffers, layer._modules)
            if any(name in names for names in theirs):
                self._check_shape(name, value)
                setattr(layer, name, value)
                return
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        """As the layer does, on its float weights."""
        self.layer.reset_parameters()

    def _check_shape(self, name: str, value: Any) -> None:
        before = self.layer._parameters.get(name)
        if name in self.weights_quantizers and before is not None and before.shape != getattr(value, "shape", None):
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            advice = "prepare the model again, with the other layer in the float one"
            raise invalid(type(self).__name__, name, f"of shape {tuple(before.shape)}", found, advice)

    def extra_repr(self) -> str:
        """The quantizers, by name of the weight."""
        return "\n".join(f"{key}: {quantizer!r}" for key, quantizer in self.weights_quantizers.items())

    def convert_to_inferable_quantizers(self) -> PytorchQuantizationWrapper:
        """Turn into a plain ``PytorchQuantizationWrapper`` of inferable quantizers, in place, and return it.

        A weight whose quantizer is disabled stays in float; the others are kept as quantized. Nothing of the result
        requires a gradient.
        """
        return become(self, self.inferable())

    def inferable(self) -> PytorchQuantizationWrapper:
        """A plain wrapper of inferable quantizers around the same layer."""
        weights = {key: weight.detach() for key, weight, _ in self.get_weights_vars()}
        grid = self.accumulator
        if grid is not None and grid.bits is not None:
            weights = {key: self._limited(weights[key], self.weights_quantizers[key], grid, False) for key in weights}
        weights = {key: deployed(weight, self.weights_quantizers[key]).detach() for key, weight in weights.items()}
        inferable = {}
        for key, quantizer in self.weights_quantizers.items():
            if getattr(quantizer, "enabled", True):
                convert = getattr(quantizer, "convert2inferable", None)
                inferable[key] = quantizer if convert is None else convert()
        if not self.is_str_attr and len(inferable) < len(weights):
            raise invalid(
                type(self).__name__,
                "quantizers of constants",
                "all enabled for conversion",
                sorted(set(weights) - set(inferable)),
                "a plain wrapper quantizes every constant it holds: leave the others to the function's own arguments",
            )
        layer = self.layer
        if self.is_str_attr:
            layer = copy.copy(layer)  # the plain wrapper takes the weights out of it
            layer._parameters = {**layer._parameters}
            if isinstance(layer, torch.nn.RNNBase):
                layer._flat_weights = list(layer._flat_weights)
            used = {key: quantizer(weights[key]) for key, quantizer in inferable.items()}
            used = used if self.folded_norm is None else {**weights, **used, "bias": self._whole_bias()}
            if grid is not None and self._grid_of_bias() is not None:
                used["bias"] = self._rounded_bias(grid, False)
            for key, value in used.items():
                layer._parameters[key] = torch.nn.Parameter(value.detach(), requires_grad=False)
        plain = PytorchQuantizationWrapper(
            layer,
            inferable,
            None if self.is_str_attr else weights,
            self.op_call_args,
            self.op_call_kwargs,
            self.is_inputs_as_list,
        )
        for name in dir(self.layer) if self.is_str_attr else ():
            if not name.startswith("_") and not hasattr(plain, name):
                held = layer if name == "bias" else self.layer
                vars(plain)[name] = getattr(held, name)  # forwards read model.fc.in_features or model.fc.bias
        return plain.requires_grad_(False).train(self.training)


def deployed(weight: torch.Tensor, quantizer: Any) -> torch.Tensor:
    """The weight as an inferable quantizer is given it."""
    return quantizer.deployed_weight(weight) if isinstance(quantizer, BaseTrainableQuantizer) else weight


def _quantizes(quantizer: Any, weight: torch.Tensor) -> bool:
    """Whether a quantizer already serves a weight in another wrapper."""
    owner = getattr(quantizer, "_owner", None)
    pairs = owner.get_weights_vars() if isinstance(owner, PytorchTrainableQuantizationWrapper) else ()
    return any(each is quantizer and theirs is weight for _, theirs, each in pairs)


def _share(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    if isinstance(tensor, torch.nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def become(module: torch.nn.Module, other: torch.nn.Module) -> Any:
    """Give ``module`` the class and the state of ``other``, so that all references to it become the other."""
    module.__class__ = other.__class__
    module.__dict__ = other.__dict__
    return module


def _check(module: Any, quantizers: Any, weight_values: Any) -> None:
    owner = PytorchTrainableQuantizationWrapper.__name__
    if not callable(module):
        raise invalid(owner, "module", "a module or a function", module, "pass the layer to wrap")
    if not isinstance(quantizers, Mapping):
        raise invalid(owner, "weights_quantizers", "a dictionary", quantizers, "write {'weight': quantizer}")
    for key, quantizer in quantizers.items():
        if not isinstance(quantizer, BaseInferableQuantizer):
            raise invalid(owner, f"quantizer of {key!r}", "a quantizer", quantizer, "build it from its configuration")
    if weight_values is not None:
        for key, value in weight_values.items():
            if not isinstance(key, int) or not isinstance(value, torch.Tensor):
                raise invalid(owner, "weight_values", "tensors by position", {key: value}, "write {1: tensor}")
        if set(weight_values) != set(quantizers):
            advice = "name each constant in both"
            raise invalid(
                owner, "weights_quantizers", f"at positions {sorted(weight_values)}", list(quantizers), advice
            )
        return
    if not isinstance(module, torch.nn.Module):
        raise invalid(owner, "weight_values", "given when wrapping a function", None, "pass {position: tensor}")
    known = [name for name, _ in module.named_parameters(recurse=False)]
    for key in quantizers:
        if key not in known:
            rule = f"a parameter of {type(module).__name__}"
            raise invalid(owner, "weights_quantizers key", rule, key, nearest(key, known))
