"""Observes the outputs of layers while a model runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from trainable_quantizers_keras.keras_version import keras
from trainable_quantizers_keras.layers.calls import calls_of, is_graph
from trainable_quantizers_keras.layers.copies import parts_of
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput


def named_layers(model: Any, prefix: str = "", models: bool = False) -> dict[str, Any]:
    """The layers of graphs and subclassed models at any depth, by path; those inside other layers are not separate.

    Args:
        model: The model.
        prefix: Of the paths.
        models: Whether models inside the model are listed as well, before their layers.

    Examples:
        >>> inner = keras.Sequential([keras.Input((2,)), keras.layers.ReLU(name="relu")], name="inner")
        >>> list(named_layers(keras.Sequential([keras.Input((2,)), inner])))
        ['inner/relu']
    """
    parts = {call.layer.name: call.layer for call in calls_of(model)} if is_graph(model) else parts_of(model)
    found: dict[str, Any] = {}
    for name, layer in parts.items():
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            found.update({f"{prefix}{name}": layer} if models else {})
            found.update(named_layers(layer, f"{prefix}{name}/", models))
        elif isinstance(layer, KerasQuantizedOutput):
            found.update({f"{prefix}{name}": layer.layer, f"{prefix}{name}/output": layer.holder})
        else:
            found[f"{prefix}{name}"] = layer
    return found


@contextmanager
def watching(layers: Iterable[Any], see: Callable[[Any, Any], None], before: bool = False) -> Iterator[None]:
    """Hand each layer and the result of each of its calls to ``see``, inside the context.

    Args:
        layers: Which to watch; each is watched once.
        see: Called with the layer and its result.
        before: Hand over the first argument, before the call, instead of the result.

    Examples:
        >>> import numpy as np
        >>> layer, seen = keras.layers.ReLU(), []
        >>> with watching([layer], lambda layer, result: seen.append(float(result[0]))):
        ...     result = layer(np.float32([-1.0, 2.0]))
        >>> seen
        [0.0]
    """
    with replaced_calls(layers, lambda layer, call: _watched(layer, call, see, before)):
        yield


@contextmanager
def replaced_calls(layers: Iterable[Any], replacement: Callable[[Any, Callable[..., Any]], Any]) -> Iterator[None]:
    """Replace the ``call`` of each layer inside the context.

    Args:
        layers: Each gets one.
        replacement: Makes it, given the layer and its own.
    """
    changed = {id(layer): layer for layer in layers}.values()
    own = {id(layer): vars(layer)["call"] for layer in changed if "call" in vars(layer)}
    for layer in changed:
        vars(layer)["call"] = replacement(layer, layer.call)
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["call"]
            if id(layer) in own:
                vars(layer)["call"] = own[id(layer)]


def _kept(layer: Any, call: Callable[..., Any], found: dict[int, tuple[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(call)
    def kept(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        found.setdefault(id(layer), (args, kwargs, result))
        return result

    return kept


def _watched(layer: Any, call: Callable[..., Any], see: Callable[[Any, Any], None], before: bool) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before:
            see(layer, (*args, *kwargs.values())[0])
        result = call(*args, **kwargs)
        if not before:
            see(layer, result)
        return result

    return watched


@contextmanager
def first_calls(layers: Iterable[Any]) -> Iterator[dict[int, tuple[Any, Any, Any]]]:
    """Arguments, arguments by name and result of the first call of each layer, by its identity.

    Examples:
        >>> import numpy as np
        >>> layer = keras.layers.ReLU()
        >>> with first_calls([layer]) as calls:
        ...     result = layer(np.float32([-1.0, 2.0]))
        >>> calls[id(layer)][2] is result
        True
    """
    found: dict[int, tuple[Any, Any, Any]] = {}
    with replaced_calls(layers, lambda layer, call: _kept(layer, call, found)):
        yield found
