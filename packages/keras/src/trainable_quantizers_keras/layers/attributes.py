"""Copies layers and models attribute by attribute, without calling their constructors."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import tensorflow as tf

from trainable_quantizers_keras.keras_version import KERAS_3, keras

_OF_TENSORFLOW = (
    *("_self_unconditional", "_self_setattr", "_self_update", "_self_saveable", "_self_name_based", "_self_tracked"),
)
"""How attributes begin in which TensorFlow keeps track of others."""
_ALSO = ("activity_regularizer", "input_spec", "supports_masking")  # set by constructors, kept below other names


def without_constructor(old: Any, again: Again) -> Any:
    """A layer or model of the same class, made by copying attributes."""
    cls: Any = type(old)
    fresh = cls.__new__(cls)
    again.memo[id(old)] = fresh
    options = {"name": old.name, "trainable": old.trainable, "dtype": getattr(old, "dtype_policy", None)}
    (keras.Model if isinstance(old, keras.Model) else keras.layers.Layer).__init__(fresh, **options)
    carry(old, fresh, again)
    for name in _ALSO:
        if getattr(fresh, name, None) is not getattr(old, name, None):
            setattr(fresh, name, getattr(old, name))
    shapes = vars(old).get("_build_shapes_dict", vars(old).get("_build_input_shape"))
    if shapes is not None:
        vars(fresh)["_build_shapes_dict" if KERAS_3 else "_build_input_shape"] = shapes
    fresh.built = old.built
    return fresh


class Again:
    """The replacements, in a copy, of the layers and variables of the original.

    Args:
        memo: By identity of the original.
        copy: Makes the copy of a layer that has none yet.
    """

    def __init__(self, memo: MutableMapping[int, Any], copy: Callable[[Any], Any]) -> None:
        self.memo = memo
        self._copy = copy

    def __call__(self, value: Any) -> Any:
        """A copy of an attribute's value; values without layers and variables are shared."""
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, keras.layers.Layer) and not isinstance(value, keras.metrics.Metric):
            return self._copy(value)
        if isinstance(value, (keras.metrics.Metric, *_SEEDS)):
            source: Any = value
            self.memo[id(value)] = type(source).from_config(source.get_config())
            return self.memo[id(value)]
        if is_variable(value):
            self.memo[id(value)] = _variable_again(value)
            return self.memo[id(value)]
        if isinstance(value, Mapping):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self, value))
        if isinstance(value, (list, tuple)):
            return (tuple if isinstance(value, tuple) else list)(map(self, value))
        if isinstance(value, types.MethodType) and isinstance(value.__self__, keras.layers.Layer):
            return types.MethodType(value.__func__, self(value.__self__))
        if isinstance(value, types.FunctionType) and value.__closure__:
            return self._function(value)
        return value

    def _function(self, function: types.FunctionType) -> Any:
        """A copy of a function that was made in a method and reads layers from there."""
        try:
            held = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # an empty cell
            return function
        if not any(isinstance(value, keras.layers.Layer) for value in held):
            return function
        cells = tuple(types.CellType(self(value)) for value in held)
        again = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
        )
        again.__kwdefaults__ = function.__kwdefaults__
        return again


_SEEDS: tuple[Any, ...] = (keras.random.SeedGenerator,) if KERAS_3 else ()
_VARIABLES: tuple[type, ...] = (keras.Variable, tf.Variable) if KERAS_3 else (tf.Variable,)


def is_variable(value: Any) -> bool:
    """Whether it is a variable of Keras or TensorFlow."""
    return isinstance(value, _VARIABLES) or (hasattr(value, "_variable") and hasattr(value, "assign"))


def _variable_again(variable: Any) -> Any:
    name = variable.name.partition(":")[0]
    if KERAS_3 and isinstance(variable, keras.Variable):
        options = {"trainable": variable.trainable, "name": name, "autocast": getattr(variable, "_autocast", True)}
        return keras.Variable(variable.numpy(), dtype=variable.dtype, **options)
    owner = keras.layers.Layer(dtype="mixed_float16" if hasattr(variable, "_variable") else variable.dtype)
    initializer = keras.initializers.Constant(variable.numpy())
    return owner.add_weight(
        name=name, shape=variable.shape, dtype=variable.dtype, initializer=initializer, trainable=variable.trainable
    )


def carry(old: Any, fresh: Any, again: Again) -> None:
    """Copy the attributes that Keras itself does not set, in their order."""
    for layer in old._flatten_layers(include_self=False):
        mine, theirs = (_float_weights(each) for each in (layer, again.memo.get(id(layer))))
        if len(mine) == len(theirs):
            again.memo.update({id(weight): new for weight, new in zip(mine, theirs, strict=True)})
    taken, held = vars(fresh).keys(), {id(weight) for weight in fresh.weights}
    for name, value in list(vars(old).items()):
        if name in taken or name.startswith(_OF_TENSORFLOW) or name in ("build", "call"):
            continue
        carried = again(value)
        variables = variables_in(carried)
        if variables and all(id(item) in held for item in variables):
            vars(fresh)[name] = carried  # layers inside hold them, and save them
            continue
        try:
            setattr(fresh, name, carried)
        except AttributeError:  # a property without setter of the functional model
            vars(fresh)[name] = carried


def _float_weights(layer: Any) -> list[Any]:
    """The weights of a layer, also of one that is wrapped, in order of their names."""
    weights = list(getattr(layer.layer if isinstance(layer, keras.layers.Wrapper) else layer, "weights", ()))
    taken = [weight for _, weight, _ in getattr(layer, "_weights_vars", ())]  # by a wrapper of mct-quantizers
    weights += [weight for weight in taken if not any(weight is other for other in weights)]
    return sorted(weights, key=lambda weight: weight.name.rpartition("/")[2])


def variables_in(value: Any) -> list[Any]:
    """The variables in an attribute's value: the value itself, or items of lists and dictionaries."""
    return [item for item in leaves(value) if is_variable(item)]


def leaves(value: Any) -> Iterator[Any]:
    """The items of lists, tuples and dictionaries, at any depth; the value itself if it is none of these."""
    if isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(item)
    else:
        yield value
