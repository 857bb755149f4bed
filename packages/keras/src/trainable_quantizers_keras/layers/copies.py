"""Copies layers and models, replacing some of their layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers.attributes import Again, without_constructor
from trainable_quantizers_keras.layers.calls import Call, is_graph, rebuild
from trainable_quantizers_keras.layers.opened import KerasOpenedModel

OF_KERAS = ("keras.", "tf_keras.", "tensorflow.", "mct_quantizers.", "trainable_quantizers_keras.")


def is_of_keras(layer: Any) -> bool:
    """Whether a layer's configuration is sure to rebuild it, because its class is not the user's.

    Examples:
        >>> is_of_keras(keras.layers.Dense(2))
        True
    """
    return type(layer).__module__.startswith(OF_KERAS)


class _WithPart(keras.layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.part = keras.layers.Layer()


INTERNAL = {"_layers", *vars(_WithPart())} - {"part"}
"""Attributes that every layer has, among them lists of its parts."""


def copied(
    layer: Any,
    replace: Callable[[Any, Call | None], Any] = lambda layer, call: layer,
    after: Callable[[Any], Any] = lambda call: None,
    copies: dict[int, Any] | None = None,
    call: Call | None = None,
) -> Any:
    """Copy a built layer or model: the same class, configuration and weights, sharing nothing.

    Args:
        layer: Stays as it is.
        replace: Gives the replacement of a layer: another layer or a function, None to leave it out of a graph, or
            the layer itself, to copy it. It is asked for each layer inside graphs and subclassed models, and for those
            themselves, with the call in the graph if the layer stands in one.
        after: Gives the layer that the result of a call goes through, or None; asked for each call of a graph.
        copies: Earlier copies, by identity: a shared layer stays shared.
        call: The call of the layer in a Sequential or functional model.

    Raises:
        QuantizerError: a layer that its configuration does not rebuild.
    """
    copies = {} if copies is None else copies
    if id(layer) not in copies:
        replacement = replace(layer, call)
        if replacement is layer:
            again = Again(copies, lambda inner: copied(inner, replace, after, copies))
            if is_graph(layer):
                replacement = rebuild(
                    layer, lambda call: copied(call.layer, replace, after, copies, call), after, again
                )
            elif isinstance(layer, keras.layers.Layer) and not (is_of_keras(layer) and _has_configuration(layer)):
                replacement = without_constructor(layer, again)
            else:
                replacement = _from_configuration(layer)
                (_set_vocabulary if hasattr(layer, "get_vocabulary") else _set_weights)(layer, replacement)
        copies[id(layer)] = replacement
    return copies[id(layer)]


def _deep_copy(model: KerasOpenedModel, memo: dict[int, Any]) -> Any:
    """A copy of the same class; Keras copies by a file, which would not keep the class."""
    return copied(model)


KerasOpenedModel.__deepcopy__ = _deep_copy  # set here, because it copies layers of all kinds, including such models


def parts_of(layer: Any) -> dict[str, Any]:
    """The layers that a layer holds as attributes, in lists and in dictionaries, by path such as ``blocks.0``.

    Examples:
        >>> list(parts_of(keras.layers.TimeDistributed(keras.layers.Dense(2))))
        ['layer']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in vars(layer).items():
        if name not in INTERNAL:
            for path, part in _layers_in(name, value):
                if id(part) not in seen:
                    found[path] = part
                    seen.add(id(part))
    return found


def part_at(layer: Any, path: str) -> Any:
    """The part that ``parts_of`` found at a path, or a part of a part.

    Examples:
        >>> part_at(keras.layers.LSTM(2), "cell").units
        2
    """
    for step in filter(None, path.split(".")):
        if isinstance(layer, Mapping):
            layer = layer[step]
        elif isinstance(layer, (list, tuple)):
            layer = layer[int(step)]
        else:
            layer = getattr(layer, step)
    return layer


def _layers_in(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.metrics.Metric):
        return  # Keras 2 takes them for layers
    if isinstance(value, keras.layers.Layer):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _layers_in(f"{path}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in(f"{path}.{index}", item)


def _has_configuration(layer: Any) -> bool:
    """Whether the configuration of a Keras layer is complete: with some functions or policies it is not."""
    try:
        return not isinstance(layer, keras.layers.Lambda) and layer.get_config() is not None
    except NotImplementedError:
        return False


def _from_configuration(layer: Any) -> Any:
    try:
        config = layer.get_config()
        trusted = {"safe_mode": False} if "safe_mode" in inspect.signature(type(layer).from_config).parameters else {}
        inside = {type(part).__name__: type(part) for part in _flat(layer) if not is_of_keras(part)}
        with keras.utils.custom_object_scope(inside):
            return type(layer).from_config(config, **trusted)  # a Lambda of this process, not of a file
    except Exception as error:  # anything that a constructor raises
        raise _not_rebuilt(layer, error) from error


def _flat(layer: Any) -> list[Any]:
    """The layer and those inside it; an operation of Keras 3 has none."""
    return list(layer._flatten_layers()) if isinstance(layer, keras.layers.Layer) else [layer]


def _not_rebuilt(layer: Any, error: Any) -> Exception:
    owner, name = type(layer).__name__, getattr(layer, "name", "")
    advice = f"give it a get_config() from which from_config() makes it again; it says: {error}"
    return invalid(owner, "layer", "one that its configuration rebuilds", name, advice)


def _set_weights(layer: Any, fresh: Any) -> None:
    if not getattr(layer, "weights", None):  # Keras 3 knows operations that are no layers
        return
    build_like(layer, fresh)
    if [tuple(w.shape) for w in fresh.weights] != [tuple(w.shape) for w in layer.weights]:
        raise _not_rebuilt(layer, f"its weights are {_shapes(layer)}, those of the copy {_shapes(fresh)}")
    fresh.set_weights(layer.get_weights())
    for part in fresh._flatten_layers() if KERAS_3 else ():
        if hasattr(part, "finalize_state"):  # Normalization derives its state from its weights
            part.finalize_state()


def _set_vocabulary(layer: Any, fresh: Any) -> None:
    """Copy the vocabulary that a layer learned by ``adapt``, which its configuration does not hold."""
    if layer.get_vocabulary() == fresh.get_vocabulary():
        return
    lookup = getattr(layer, "_lookup_layer", layer)  # of TextVectorization
    weights = [lookup.idf_weights.numpy()] if lookup.output_mode == "tf_idf" else []
    fresh.set_vocabulary(layer.get_vocabulary(), *weights)


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def input_shape_of(layer: Any) -> Any:
    """The shape of the first input that a layer was built with."""
    config = layer.get_build_config() or {}
    return config.get("input_shape", next(iter(config.get("shapes_dict", {}).values()), None))


def build_by_call(layer: Any, input_shape: Any, weights: int = 0) -> None:
    """Build the parts of a layer that its call builds; attention of Keras 2 knows its argument shapes itself.

    Args:
        layer: The layer.
        input_shape: Of its input, or of several.
        weights: How many weights it has then; Keras 3 does not call cells on symbols.
    """
    arguments = inspect.signature(layer.call).parameters
    shapes = {name[:-6]: shape for name, shape in layer.get_config().items() if name.endswith("_shape")}
    inputs = {name: keras.Input(batch_shape=shape) for name, shape in shapes.items() if name in arguments}
    if inputs:
        layer(**inputs)
    else:
        shapes = shapes_of(input_shape)
        several = isinstance(shapes, list)  # a sequence and initial states
        layer([keras.Input(batch_shape=shape) for shape in shapes] if several else keras.Input(batch_shape=shapes))
        if len(layer.weights) < weights and not several:
            layer(tf.zeros([size or 1 for size in shapes]))


def shapes_of(shape: Any) -> Any:
    """A shape as a tuple, several as a list of tuples: files keep lists, which Keras 2 takes for several.

    Examples:
        >>> shapes_of([None, 4]), shapes_of([[None, 4], (None, 2)])
        ((None, 4), [(None, 4), (None, 2)])
    """
    if isinstance(shape, tf.TensorShape):
        return tuple(shape)
    if not isinstance(shape, (list, tuple)):
        return shape
    one = all(size is None or isinstance(size, int) for size in shape)
    return tuple(shape) if one else [shapes_of(each) for each in shape]


def build_like(layer: Any, fresh: Any) -> None:
    """Build ``fresh`` for the inputs that ``layer`` was built for."""
    config = layer.get_build_config()
    if config and "input_shape" in config:
        config = {**config, "input_shape": shapes_of(config["input_shape"])}
    if config and not (fresh.built and len(fresh.weights) == len(layer.weights)):
        try:
            with nullcontext() if KERAS_3 else tf.name_scope(fresh.name):  # of its weights, in HDF5 files of Keras 2
                fresh.build_from_config(config)
            if len(fresh.weights) != len(layer.weights) and input_shape_of(layer) is not None:
                build_by_call(fresh, input_shape_of(layer), len(layer.weights))
        except Exception as error:  # anything that a build method raises
            raise _not_rebuilt(layer, error) from error
    if config:
        remember_shape(fresh, config.get("input_shape"))
    fresh.built = True


def remember_shape(layer: Any, input_shape: Any) -> None:
    """Keep the shape that a layer was built for, which Keras 2 keeps only for layers that were called."""
    if not KERAS_3:
        keras.layers.Layer.build(layer, input_shape)
