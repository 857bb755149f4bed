"""Models and layers again without their constructors: of the same class, with the same attributes."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, keras

_symbol = keras.Input((1,))
_FUNCTIONAL = type(keras.Model(_symbol, keras.layers.ReLU()(_symbol)))  # no public name
_OF_TENSORFLOW = (
    *("_self_unconditional", "_self_setattr", "_self_update", "_self_saveable", "_self_name_based", "_self_tracked"),
)
"""How attributes begin in which TensorFlow keeps track of others."""
_ALSO = ("activity_regularizer", "input_spec", "supports_masking")  # set by constructors, kept below other names


class CalledDifferentlyError(Exception):
    """A layer is called in several ways, such as with and without a mask.

    Args:
        layer: Its identity.
    """

    def __init__(self, layer: int) -> None:
        super().__init__("called in several ways")
        self.layer = layer


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasOpenedModel(_FUNCTIONAL):  # type: ignore[misc, valid-type]
    """A functional model in the place of a model or layer whose call was recorded; an instance of its class as well.

    A file keeps the graph, and not the class.
    """

    recorded: CallForm | None = None
    """The call that was recorded."""

    def __dir__(self) -> Iterable[str]:
        """Without the attributes that hold layers, of Keras 2: its files name weights after the last one of this list.

        So the layers are saved as those of the graph, which a file keeps.
        """
        hidden = (
            set() if KERAS_3 else {name for name, value in vars(self).items() if any(map(_is_layer, _leaves(value)))}
        )
        return [name for name in super().__dir__() if name not in hidden]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The graph on the tensors among the arguments, which must be those of the recorded call.

        Raises:
            QuantizerError: other arguments.
        """
        recorded = self.recorded
        training = {"training": kwargs.pop("training")} if "training" in kwargs else {}
        tensors = tf.nest.flatten(args)
        if len(args) == 1 and set(kwargs) <= {"mask"} and len(tensors) == len(tf.nest.flatten(self.input)):
            several = tensors if len(tensors) > 1 else tensors[0]
            return super().__call__(args[0] if isinstance(self.input, Mapping) else several, **kwargs, **training)
        if recorded is None:
            advice = "a file keeps the graph of a call alone"
            raise invalid(type(self).__name__, f"arguments of {self.name!r}", "one list of tensors", kwargs, advice)
        given = CallForm.of(recorded.signature, args, kwargs)
        if given.constants != recorded.constants:
            rule = f"those of the recorded call, {recorded.constants}"
            advice = "it runs the graph of that call"
            raise invalid(type(self).__name__, f"arguments of {self.name!r}", rule, given.constants, advice)
        return super().__call__(given.tensors if len(given.tensors) > 1 else given.tensors[0], **training)

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """The graph on tensors."""
        if not isinstance(self.input, Mapping):
            inputs = tf.nest.flatten(inputs)
            inputs = inputs if len(inputs) > 1 else inputs[0]
        if not KERAS_3 and mask is not None:  # the layers inside take it as an argument, or not at all
            inputs, mask = tf.nest.map_structure(tf.identity, inputs), None
        return _FUNCTIONAL.call(self, inputs, training=training, mask=mask)

    def call_as(self, old: Any, args: Any, kwargs: Any) -> Any:
        """Call it in a graph, where ``old`` was called."""
        given = CallForm.of(inspect.signature(old.call), args, kwargs)
        fits = all(map(_fits, tf.nest.flatten(self.input), given.tensors))
        if self.recorded is None or given.constants != self.recorded.constants or not fits:
            raise CalledDifferentlyError(id(old))
        fixed = {"training": kwargs["training"]} if kwargs.get("training") is not None else {}
        tensors = [
            KerasMask()(given.masked[id(tensor)])
            if id(tensor) in given.masked and not hasattr(tensor, "_keras_history")
            else tensor
            for tensor in given.tensors
        ]
        return self(tensors if len(tensors) > 1 else tensors[0], **fixed)

    def get_config(self) -> dict[str, Any]:
        """That of a functional model, also where the class has its own."""
        return keras.Model(self.input, self.output, name=self.name).get_config()


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasMask(keras.layers.Layer):
    """The mask that its input carries, as a tensor: in Keras 2 the mask of a symbol belongs to no graph."""

    supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The mask."""
        return mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """A mask has none."""


@dataclass(frozen=True)
class CallForm:
    """The arguments of a call of a layer, taken apart.

    Args:
        signature: Of the layer's ``call``.
        tensors: Those among the arguments, in the order of the signature, each once.
        constants: The other arguments in words; of tensors, that there is one.
        named: The arguments by name.
        masked: The tensors that have masks, by identity of the mask.
    """

    signature: inspect.Signature
    tensors: list[Any]
    constants: str
    named: dict[str, Any] = field(default_factory=dict)
    masked: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, signature: inspect.Signature, args: Any, kwargs: Any) -> CallForm:
        """The form of a call, with the masks of its symbols.

        A mask that ``call`` takes is an argument; any other comes after all of them, for the layers inside.
        """
        named = dict(signature.bind_partial(*args, **kwargs).arguments)
        beside: list[Any] = []
        masked: dict[int, Any] = {}
        for name, value in list(named.items()):
            for tensor in tf.nest.flatten(value):
                mask = getattr(tensor, "_keras_mask", None)
                argument = f"{name}_mask" if f"{name}_mask" in signature.parameters else "mask"
                masked[id(mask)] = tensor
                if mask is not None and tensor is value and argument in signature.parameters:
                    named[argument] = mask if named.get(argument) is None else named[argument]
                elif mask is not None:
                    beside.append(mask)
        ordered = {name: named[name] for name in signature.parameters if name in named and name != "training"}
        tensors = [value for value in tf.nest.flatten(list(ordered.values())) if _is_tensor(value)]
        distinct = list({id(tensor): tensor for tensor in [*tensors, *beside]}.values())
        number = {id(tensor): index for index, tensor in enumerate(distinct)}
        shown = {
            name: tf.nest.map_structure(lambda item: f"tensor {number[id(item)]}" if _is_tensor(item) else item, value)
            for name, value in ordered.items()
            if value is not None
        }
        return cls(signature, distinct, str(shown), ordered, masked)


def _fits(symbol: Any, tensor: Any) -> bool:
    """Whether a graph with this symbol takes a tensor."""
    sizes, given = tuple(symbol.shape), tuple(tensor.shape)
    return len(sizes) == len(given) and all(
        size is None or other is None or size == other for size, other in zip(sizes, given, strict=True)
    )


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def is_symbol(value: Any) -> bool:
    """Whether a value is a symbol of Keras, of which functional models are made."""
    return hasattr(value, "_keras_history") or (KERAS_3 and isinstance(value, keras.KerasTensor))


@functools.cache
def _class_of_both(cls: type) -> type:
    """A class of functional models that derives from ``cls`` as well; files name it KerasOpenedModel."""
    of_graph = {
        name: value
        for base in (*_FUNCTIONAL.__mro__[: _FUNCTIONAL.__mro__.index(keras.Model)][::-1], KerasOpenedModel)
        for name, value in vars(base).items()
        if name in ("__call__", "__dir__") or not name.startswith("__")
    }
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    bases = (cls, KerasOpenedModel)  # Keras calls constructors in this order
    both = type(KerasOpenedModel.__name__, bases, {**of_graph, **about})  # files of weights name it
    keras.utils.register_keras_serializable(package=PACKAGE, name=KerasOpenedModel.__name__)(both)
    keras.utils.get_custom_objects()[f"{PACKAGE}>{KerasOpenedModel.__name__}"] = KerasOpenedModel
    return both


def functional_like(old: Any, inputs: Any, outputs: Any, again: Any) -> Any:
    """A functional model of a graph, of the class of ``old`` as well, with its other attributes.

    Args:
        old: A model or layer.
        inputs: Symbols.
        outputs: Symbols.
        again: Gives what stands for the layers and variables among the attributes.
    """
    cls: Any = type(old)
    if cls in (_FUNCTIONAL, keras.Model) or isinstance(old, keras.Sequential):
        return keras.Model(inputs, outputs, name=old.name)
    kind: Any = cls if isinstance(old, KerasOpenedModel) else _class_of_both(cls)
    fresh = kind.__new__(kind)
    _FUNCTIONAL.__init__(fresh, inputs, outputs, name=old.name)
    _carry(old, fresh, again)
    if isinstance(old, KerasOpenedModel):
        fresh.recorded = old.recorded
    return fresh


def rename(layer: Any, name: str) -> None:
    """Give a layer or operation another name."""
    setattr(layer, "name" if KERAS_3 else "_name", name)


def without_constructor(old: Any, again: Again) -> Any:
    """A layer or model of the same class, made by copying attributes."""
    cls: Any = type(old)
    fresh = cls.__new__(cls)
    again.memo[id(old)] = fresh
    options = {"name": old.name, "trainable": old.trainable, "dtype": getattr(old, "dtype_policy", None)}
    (keras.Model if isinstance(old, keras.Model) else keras.layers.Layer).__init__(fresh, **options)
    _carry(old, fresh, again)
    for name in _ALSO:
        if getattr(fresh, name, None) is not getattr(old, name, None):
            setattr(fresh, name, getattr(old, name))
    shapes = vars(old).get("_build_shapes_dict", vars(old).get("_build_input_shape"))
    if shapes is not None:
        vars(fresh)["_build_shapes_dict" if KERAS_3 else "_build_input_shape"] = shapes
    fresh.built = old.built
    return fresh


class Again:
    """What stands in a copy for the layers and variables of the original.

    Args:
        memo: By identity of the original.
        copy: Makes the copy of a layer that has none yet.
    """

    def __init__(self, memo: MutableMapping[int, Any], copy: Callable[[Any], Any]) -> None:
        self.memo = memo
        self._copy = copy

    def __call__(self, value: Any) -> Any:
        """A value of an attribute again; what holds no layers and variables is shared."""
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
        """A function that was made in a method, and reads layers from there."""
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


def _carry(old: Any, fresh: Any, again: Again) -> None:
    """Give a copy the attributes that Keras itself does not set, in their order."""
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
    """The variables that a value of an attribute is, or holds in lists and dictionaries."""
    return [item for item in _leaves(value) if is_variable(item)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item)
    else:
        yield value
