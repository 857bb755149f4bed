"""The quantizers of a model, with the names of their layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from torch import nn
from trainable_quantizers_core import inventory
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.quantizer.accumulator import bits_of

from trainable_quantizers_torch.graph.exchanged import check_held
from trainable_quantizers_torch.graph.runtime import Place, Quantizers
from trainable_quantizers_torch.quantizer.range_quantizer import PytorchRangeQuantizer


def quantizers_of(model: nn.Module) -> list[PlacedQuantizer]:
    """The trainable quantizers that are enabled, in the order of the model's modules; a shared one once.

    Raises:
        QuantizerError: a float layer stands where ``prepare`` quantized one.
    """
    found: dict[int, PlacedQuantizer] = {}
    if not isinstance(model, nn.Module):
        return []
    check_held(model)
    for each in _all(model):
        if isinstance(each.quantizer, PytorchRangeQuantizer) and each.quantizer.enabled:
            found.setdefault(id(each.quantizer), each)
    return list(found.values())


def _all(model: nn.Module) -> Iterator[PlacedQuantizer]:
    """Weights of layers in the order of modules, then what forwards compute, in order of execution."""
    named = dict(model.named_modules())
    for name, module in named.items():
        if isinstance(module, PytorchQuantizationWrapper):
            for key, quantizer in module.weights_quantizers.items():
                yield PlacedQuantizer(name, str(key), quantizer, module)
    inside = [module for module in named.values() if isinstance(module, Quantizers)]
    places = {each[key]: place for each in inside for key, place in each.places.items()}
    holders = {
        module: name for name, module in named.items() if isinstance(module, PytorchActivationQuantizationHolder)
    }
    for module in sorted(holders, key=lambda module: places[module].order if module in places else -1):
        place = places.get(module, Place(holders[module], "output", -1))
        yield PlacedQuantizer(place.operation, place.attribute, module.activation_holder_quantizer, module)


@contextmanager
def watched_sums(placed: Iterable[PlacedQuantizer]) -> Iterator[dict[str, int]]:
    """Inside the context: the accumulator bits needed so far, by layer, of those whose sums lie on known grids."""
    seen: dict[str, int] = {}

    def watch(each: PlacedQuantizer) -> Any:
        def see(module: nn.Module, args: Any) -> None:
            sums = each.holder.sums(args[0])
            if sums.numel():
                seen[each.layer] = max(bits_of(sums.min().item(), sums.max().item()), seen.get(each.layer, 0))

        return see

    with ExitStack() as stack:
        for each in placed:
            if each.accumulator_bits is not None:
                stack.callback(each.holder.layer.register_forward_pre_hook(watch(each)).remove)
        yield seen


def quantized_weights(model: nn.Module) -> Iterator[tuple[torch.Tensor, PytorchRangeQuantizer]]:
    """Each weight of a layer with its quantizer, where that is enabled; a shared one once."""
    seen = set()
    for module in model.modules():
        if isinstance(module, PytorchQuantizationWrapper):
            for _, weight, quantizer in module.get_weights_vars():
                if isinstance(quantizer, PytorchRangeQuantizer) and quantizer.enabled and id(quantizer) not in seen:
                    seen.add(id(quantizer))
                    yield weight, quantizer


def save_quantizers(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the parameters of the quantizers to a file that every framework reads, atomically.

    Args:
        model: A model from ``prepare``, trained or not.
        path: The file: safetensors.

    Raises:
        QuantizerError: the model holds no trainable quantizers, or a parameter is not finite.
        ImportError: safetensors is not installed; the message says how to install it.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from safetensors.numpy import load_file
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> model = prepare(nn.Sequential(nn.Linear(4, 2)), Recipe({"num_bits": 4}), verbose=False)
        >>> with TemporaryDirectory() as folder:
        ...     save_quantizers(model, f"{folder}/learned.safetensors")
        ...     {name: values.shape for name, values in load_file(f"{folder}/learned.safetensors").items()}
        {'0.threshold': (2,)}
    """
    inventory.save_quantizers(path, quantizers_of(model), "PyTorch")


def load_quantizers(model: nn.Module, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> None:
    """Load the parameters in a file into the quantizers of a model: all, or none if one does not fit.

    Args:
        model: The same model as the one that the file was saved from, in any framework.
        path: A file that ``save_quantizers`` wrote.
        names: Name of a layer in the file -> name in the model, where they differ by more than ``.``, ``/``, ``_``.

    Raises:
        QuantizerError: no such file as ``save_quantizers`` writes, or quantizers that do not fit; it names them.
        FileNotFoundError: the file does not exist.
        ImportError: safetensors is not installed; the message says how to install it.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from trainable_quantizers_torch import Recipe, prepare
        >>> recipe = Recipe({"num_bits": 4})
        >>> one, other = (prepare(nn.Sequential(nn.Linear(4, 2)), recipe, verbose=False) for _ in range(2))
        >>> with TemporaryDirectory() as folder:
        ...     save_quantizers(one, f"{folder}/learned.safetensors")
        ...     load_quantizers(other, f"{folder}/learned.safetensors")
        >>> bool((other[0].weight_threshold == one[0].weight_threshold).all())
        True
    """
    inventory.load_quantizers(path, quantizers_of(model), names)
