"""Copies of layers and models, in which some layers are replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.graph.calls import is_graph, rebuild
from trainable_quantizers_keras.keras_version import KERAS_3, keras


def copied(
    layer: Any,
    replace: Callable[[Any, bool], Any] = lambda layer, in_graph: layer,
    after: Callable[[Any], Any] = lambda call: None,
    copies: dict[int, Any] | None = None,
    in_graph: bool = False,
) -> Any:
    """A built layer or model again: of the same configuration, with the same weights, sharing nothing.

    Args:
        layer: Stays as it is.
        replace: What to put in the place of a layer: another layer, None to leave it out of a graph, or the layer
            itself, to copy it. It is asked for each layer inside graphs and subclassed models, and for those
            themselves; and told whether the layer stands in a graph.
        after: A layer that the result of a call goes through, or None; asked for each call of a graph.
        copies: What was copied before, by identity: a shared layer stays shared.
        in_graph: Whether the layer stands in a Sequential or functional model.

    Raises:
        QuantizerError: a layer that its configuration does not rebuild.
    """
    copies = {} if copies is None else copies
    if id(layer) not in copies:
        replacement = replace(layer, in_graph)
        if replacement is layer:
            if is_graph(layer):
                replacement = rebuild(layer, lambda inner: copied(inner, replace, after, copies, True), after)
            else:
                replacement = _from_configuration(layer)
                if isinstance(layer, keras.Model):
                    _put_copies(layer, replacement, lambda inner: copied(inner, replace, after, copies))
                else:
                    _set_weights(layer, replacement)
        copies[id(layer)] = replacement
    return copies[id(layer)]


def parts_of(layer: Any) -> dict[str, Any]:
    """The layers that a layer holds as attributes, in lists and in dictionaries, by path such as ``blocks.0``.

    Example:
        >>> list(parts_of(keras.layers.TimeDistributed(keras.layers.Dense(2))))
        ['layer']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in vars(layer).items():
        if name != "_layers" and not name.startswith("_self_"):
            for path, part in _layers_in(name, value):
                if id(part) not in seen:
                    found[path] = part
                    seen.add(id(part))
    return found


def part_at(layer: Any, path: str) -> Any:
    """What ``parts_of`` found at a path, and the parts of parts.

    Example:
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
    if isinstance(value, keras.layers.Layer):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _layers_in(f"{path}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in(f"{path}.{index}", item)


def _from_configuration(layer: Any) -> Any:
    try:
        config = layer.get_config()
        if isinstance(layer, keras.Model):  # Keras 3 adds words of its own that few constructors know
            known = inspect.signature(type(layer).__init__).parameters
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
                config = {key: value for key, value in config.items() if key in known}
        trusted = {"safe_mode": False} if "safe_mode" in inspect.signature(type(layer).from_config).parameters else {}
        return type(layer).from_config(config, **trusted)  # a Lambda of this process, not of a file
    except Exception as error:  # whatever a constructor raises
        raise _not_rebuilt(layer, error) from error


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
        if hasattr(part, "finalize_state"):  # what Normalization computes with follows from its weights
            part.finalize_state()


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def input_shape_of(layer: Any) -> Any:
    """The shape of the first input that a layer was built with."""
    config = layer.get_build_config() or {}
    return config.get("input_shape", next(iter(config.get("shapes_dict", {}).values()), None))


def build_by_call(layer: Any, input_shape: Any) -> None:
    """Build what a layer builds when it is called; attention of Keras 2 knows the shapes of its arguments itself."""
    arguments = inspect.signature(layer.call).parameters
    shapes = {name[:-6]: shape for name, shape in layer.get_config().items() if name.endswith("_shape")}
    inputs = {name: keras.Input(batch_shape=shape) for name, shape in shapes.items() if name in arguments}
    if inputs:
        layer(**inputs)
    else:
        shapes = shapes_of(input_shape)
        several = isinstance(shapes, list)  # a sequence and initial states
        layer([keras.Input(batch_shape=shape) for shape in shapes] if several else keras.Input(batch_shape=shapes))


def shapes_of(shape: Any) -> Any:
    """A shape as a tuple, several as a list of tuples: files keep lists, which Keras 2 takes for several.

    Example:
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
            fresh.build_from_config(config)
            if len(fresh.weights) != len(layer.weights) and "input_shape" in config:
                build_by_call(fresh, config["input_shape"])
        except Exception as error:  # whatever a build method raises
            raise _not_rebuilt(layer, error) from error
    if config:
        remember_shape(fresh, config.get("input_shape"))
    fresh.built = True


def remember_shape(layer: Any, input_shape: Any) -> None:
    """Keep the shape a layer was built for, which Keras 2 does of layers that were called alone."""
    if not KERAS_3:
        keras.layers.Layer.build(layer, input_shape)


def _put_copies(model: Any, fresh: Any, copy: Callable[[Any], Any]) -> None:
    """The parts of a subclassed model, each copied; then the weights that are its own."""
    parts = parts_of(model)
    inside = {id(weight) for part in parts.values() for weight in part.weights}
    own = [weight for weight in model.weights if id(weight) not in inside]
    if own or parts_of(fresh).keys() != parts.keys():
        build_like(model, fresh)
    if parts_of(fresh).keys() != parts.keys():
        raise _not_rebuilt(model, f"it holds {list(parts)}, the copy {list(parts_of(fresh))}")
    inside = {id(weight) for part in parts_of(fresh).values() for weight in part.weights}
    fresh_own = [weight for weight in fresh.weights if id(weight) not in inside]
    if len(own) != len(fresh_own):
        raise _not_rebuilt(model, f"it has {len(own)} weights of its own, the copy {len(fresh_own)}")
    for weight, value in zip(fresh_own, own, strict=True):
        weight.assign(value)
    for path, part in parts.items():
        put(fresh, path, copy(part))
    fresh.built = model.built  # all inside is


def put(layer: Any, path: str, part: Any) -> None:
    """Replace what a layer holds at a path."""
    owner_path, _, name = path.rpartition(".")
    owner = part_at(layer, owner_path)
    if not KERAS_3:
        _assign(owner, name, part)
        return
    tracker = layer._tracker  # a built layer of Keras 3 refuses new parts, and does not forget old ones
    was_locked = tracker.locked
    tracker.unlock()
    tracker.untrack(part_at(layer, path))
    tracker.track(part)  # lists do not do it themselves
    _assign(owner, name, part)
    if was_locked:
        tracker.lock()


def _assign(owner: Any, name: str, part: Any) -> None:
    if isinstance(owner, Mapping):
        owner[name] = part  # type: ignore[index]
    elif isinstance(owner, list):
        owner[int(name)] = part
    else:
        setattr(owner, name, part)
