"""Converts a trained model to the one that is deployed."""

from __future__ import annotations

from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_torch.graph.exchanged import check_held, release, warn_of_added
from trainable_quantizers_torch.graph.fold import close
from trainable_quantizers_torch.graph.runtime import take_over
from trainable_quantizers_torch.layers.copies import copied, trainable
from trainable_quantizers_torch.layers.mixed import classes_of, mix
from trainable_quantizers_torch.layers.wrapper import deployed
from trainable_quantizers_torch.quantizer.base_quantizer import BasePytorchTrainableQuantizer


@trainable
def convert(model: torch.nn.Module) -> torch.nn.Module:
    """Convert a model for deployment: a copy with inferable quantizers of mct-quantizers in place of trainable ones.

    Its outputs are those of ``model``, bit for bit on CPU. ``model`` itself stays as it is. Wrappers and holders are
    converted at any depth, including those of mct-quantizers that hold our quantizers; no quantizer parameter is left.

    Args:
        model: A model from ``prepare``, or any model that holds trainable wrappers and holders.

    Raises:
        QuantizerError: nothing in the model can be converted, or a float layer stands where ``prepare`` quantized one.

    Examples:
        >>> from trainable_quantizers_torch import *
        >>> config = TrainableQuantizerActivationConfig(
        ...     QuantizationMethod.UNIFORM, 8, {RANGE_MIN: -1.0, RANGE_MAX: 1.0}, True, MIN_THRESHOLD)
        >>> model = torch.nn.Sequential(
        ...     PytorchTrainableActivationQuantizationHolder(LSQUniformActivationTrainableQuantizer(config)))
        >>> x = torch.randn(100)
        >>> torch.equal(convert(model)(x), model(x))
        True
    """
    check_held(model)
    warn_of_added(model)
    converted = copied(model, "convert")
    release(converted)
    found = [module for module in converted.modules() if quantizers_in(module)]
    if not found:
        advice = "wrap its layers in PytorchTrainableQuantizationWrapper, or its activations in a holder, first"
        raise invalid("convert", "model", "one that holds trainable quantizers", type(model).__name__, advice)
    ours = [module for module in found if hasattr(module, "inferable")]
    norms = [norm for module in ours if (norm := vars(module).get("folded_norm")) is not None]
    asks = any(_is_own(module) for module in converted.modules())
    for module, plain in [(module, module.inferable()) for module in ours]:  # all before any: some share quantizers
        layer = classes_of(module)[-1]
        take_over(module, plain)
        if asks and isinstance(plain, PytorchQuantizationWrapper) and plain.is_str_attr:
            mix(module, layer)
    for norm in norms:
        close(norm)
    for module in found:
        if module not in ours:  # the conversion of mct-quantizers leaves the parameters of our quantizers behind
            quantizers = quantizers_in(module)
            if isinstance(module, PytorchQuantizationWrapper):
                for _, weight, quantizer in module.get_weights_vars():
                    weight.data.copy_(deployed(weight, quantizer))
            module.convert_to_inferable_quantizers()
            for quantizer in quantizers:
                quantizer.release()
            module.requires_grad_(False)
    return converted


def _is_own(module: torch.nn.Module) -> bool:
    """Whether a module is not one of PyTorch's, so that its forward may check the types of its layers."""
    return not classes_of(module)[-1].__module__.startswith(("torch.", "mct_quantizers.", "trainable_quantizers_"))


def quantizers_in(module: torch.nn.Module) -> list[BasePytorchTrainableQuantizer]:
    """The trainable quantizers that a wrapper or holder, ours or of mct-quantizers, holds."""
    held: list[object] = []
    if isinstance(module, PytorchQuantizationWrapper):
        held = list(module.weights_quantizers.values())
    elif isinstance(module, PytorchActivationQuantizationHolder):
        held = [module.activation_holder_quantizer]
    return [quantizer for quantizer in held if isinstance(quantizer, BasePytorchTrainableQuantizer)]


def check_converted(model: torch.nn.Module, owner: str) -> None:
    """Refuse a model that still trains, or one that was changed where its layers do not look.

    The wrapper of mct-quantizers shows attributes of its layer, and keeps the tensors that it quantizes. What is set on
    it, or loaded with ``assign=True``, is not what it computes with.

    Raises:
        QuantizerError: it names the attribute.
    """
    if any(quantizers_in(module) for module in model.modules()):
        raise invalid(owner, "model", "converted", type(model).__name__, "pass convert(model)")
    for path, module in model.named_modules():
        if isinstance(module, PytorchQuantizationWrapper) and module.is_str_attr:
            used = {str(key): weight for key, weight, _ in module.get_weights_vars()}
            layer = module.layer
            inside = {**vars(layer), **layer._parameters, **layer._buffers, **used}
            shown = {**vars(module), **module._parameters, **module._buffers}
            for name in sorted(inside.keys() & shown.keys()):
                value = shown[name]
                if name != "training" and not name.startswith("_") and not _same(value, inside[name]):
                    advice = "change the float or the prepared model, and convert that again"
                    found = "another tensor" if isinstance(value, torch.Tensor) else value
                    raise invalid(owner, f"{path}.{name}", "as it was converted", found, advice)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other or torch.equal(one, other)
    return one is other or bool(one == other)
