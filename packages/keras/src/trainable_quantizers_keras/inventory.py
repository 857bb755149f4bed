"""The quantizers of a model, with the names of their layers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mct_quantizers
from trainable_quantizers_core import inventory
from trainable_quantizers_core.inventory import PlacedQuantizer
from trainable_quantizers_core.quantizer.accumulator import bits_of

from trainable_quantizers_keras.graph.watch import watching
from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import is_graph
from trainable_quantizers_keras.layers.copies import parts_of
from trainable_quantizers_keras.layers.holder import HOLDER_SUFFIX, KerasActivationQuantizationHolder
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.wrapper import KerasQuantizationWrapper
from trainable_quantizers_keras.quantizer.base_quantizer import BaseKerasTrainableQuantizer
from trainable_quantizers_keras.quantizer.range_quantizer import KerasRangeQuantizer

_WRAPPERS = (KerasQuantizationWrapper, mct_quantizers.KerasQuantizationWrapper)


def quantizers_of(model: Any) -> list[PlacedQuantizer]:
    """The trainable quantizers that are enabled, in the order of the model's layers."""
    return [
        PlacedQuantizer(name, attribute, quantizer, holder)
        for name, attribute, quantizer, holder in (_inside(model, "") if isinstance(model, keras.layers.Layer) else ())
        if isinstance(quantizer, KerasRangeQuantizer) and quantizer.enabled
    ]


@contextmanager
def watched_sums(placed: Iterable[PlacedQuantizer]) -> Iterator[dict[str, int]]:
    """Inside the context: the accumulator bits needed so far, by layer, of those whose sums lie on known grids."""
    watched = {id(each.holder): each for each in placed if each.accumulator_bits is not None}
    seen: dict[str, int] = {}

    def see(wrapper: Any, inputs: Any) -> None:
        sums, layer = wrapper.sums(inputs).numpy(), watched[id(wrapper)].layer
        if sums.size:
            seen[layer] = max(bits_of(sums.min(), sums.max()), seen.get(layer, 0))

    with watching([each.holder for each in watched.values()], see, before=True):
        yield seen


def trainable_quantizers(model: Any) -> list[BaseKerasTrainableQuantizer]:
    """All trainable quantizers, including the user's own."""
    return [found for _, _, found, _ in _inside(model, "") if isinstance(found, BaseKerasTrainableQuantizer)]


def quantized_weights(model: Any) -> Iterator[tuple[Any, KerasRangeQuantizer]]:
    """Each weight of a layer with its quantizer, where that is enabled."""
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        if isinstance(layer, _WRAPPERS):
            for _, weight, quantizer in layer.get_weights_vars():
                if isinstance(quantizer, KerasRangeQuantizer) and quantizer.enabled:
                    yield weight, quantizer


def quantizers_by_place(model: Any) -> dict[str, Any]:
    """The quantizers of activations, by the names that refer to them in the bias grids of a file."""
    held = [(name.rpartition("/")[0], holder.name, q) for name, at, q, holder in _inside(model, "") if at == "output"]
    names = Counter(name for _, name, _ in held)
    return {name if names[name] == 1 else f"{path}/{name}": quantizer for path, name, quantizer in held}


def _inside(model: Any, prefix: str) -> Iterator[tuple[str, str, Any, Any]]:
    named = {layer.name: layer for layer in model.layers} if is_graph(model) else parts_of(model)
    for name, layer in named.items():
        yield from _of(layer, f"{prefix}{name}")


def _of(layer: Any, name: str) -> Iterator[tuple[str, str, Any, Any]]:
    if isinstance(layer, KerasQuantizedOutput):
        yield from _of(layer.layer, name)
        yield name, "output", layer.holder.activation_holder_quantizer, layer.holder
    elif isinstance(layer, _WRAPPERS):
        for attribute, quantizer in layer.weights_quantizers.items():
            yield name, str(attribute), quantizer, layer
    elif isinstance(layer, KerasActivationQuantizationHolder):
        yield _layer(name), "output", layer.activation_holder_quantizer, layer
    elif isinstance(layer, keras.layers.Layer):
        yield from _inside(layer, f"{name}/")


def _layer(name: str) -> str:
    """The layer whose output a holder quantizes: ``prepare`` names the holder after it."""
    layer, found, index = name.rpartition(HOLDER_SUFFIX)
    return f"{layer}{index}" if found else name


def save_quantizers(model: Any, path: str | os.PathLike[str]) -> None:
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
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = prepare(network, Recipe({"num_bits": 4}), verbose=False)
        >>> with TemporaryDirectory() as folder:
        ...     save_quantizers(model, f"{folder}/learned.safetensors")
        ...     {name: values.shape for name, values in load_file(f"{folder}/learned.safetensors").items()}
        {'0.threshold': (2,)}
    """
    inventory.save_quantizers(path, quantizers_of(model), "Keras")


def load_quantizers(model: Any, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> None:
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
        >>> from trainable_quantizers_keras import Recipe, prepare
        >>> layer, recipe = keras.layers.Dense(2, name="head"), Recipe({"num_bits": 4})
        >>> one = prepare(keras.Sequential([keras.Input((4,)), layer]), recipe, verbose=False)
        >>> layer.set_weights([weight * 3 for weight in layer.get_weights()])
        >>> other = prepare(keras.Sequential([keras.Input((4,)), layer]), recipe, verbose=False)
        >>> with TemporaryDirectory() as folder:
        ...     save_quantizers(one, f"{folder}/learned.safetensors")
        ...     load_quantizers(other, f"{folder}/learned.safetensors")
        >>> bool((quantizers_of(other)[0].values["threshold"] == quantizers_of(one)[0].values["threshold"]).all())
        True
    """
    inventory.load_quantizers(path, quantizers_of(model), names)
