"""Graphs that replace models and layers and stay instances of their classes."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, keras
from trainable_quantizers_keras.layers.attributes import carry, leaves
from trainable_quantizers_keras.layers.call_form import CallForm

_BESIDE_MODEL = keras.Model.__module__.rpartition(".")[0]
_FUNCTIONAL = importlib.import_module(f"{_BESIDE_MODEL}.functional").Functional  # no public name


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
    """A functional model in place of a model or layer whose call was recorded; an instance of its class as well.

    A file keeps the graph, and not the class. A copy keeps the class: ``copies`` adds ``__deepcopy__``.
    """

    recorded: CallForm | None = None
    """The call that was recorded."""
    read: frozenset[str] = frozenset()
    """The attributes that it read: they are constants of the graph."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the recorded call did not read.

        Raises:
            QuantizerError: it did.
        """
        if name in self.read and not _is_same(vars(self).get(name), value):
            rule = f"as prepare recorded the call, {vars(self).get(name)!r}"
            advice = "set it before prepare: the graph of that call takes its place"
            raise invalid(type(self).__qualname__.rpartition(".")[2], name, rule, value, advice)
        super().__setattr__(name, value)

    def __reduce__(self) -> Any:
        """Pickle the graph, as a file does."""
        build, *arguments = super().__reduce__()
        return (getattr(KerasOpenedModel, "_unpickle_model", build), *arguments)

    def __dir__(self) -> Iterable[str]:
        """Without the attributes that hold layers, of Keras 2: its files name weights after the last one of this list.

        So the layers are saved as those of the graph, which a file keeps.
        """
        hidden = (
            set() if KERAS_3 else {name for name, value in vars(self).items() if any(map(_is_layer, leaves(value)))}
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
        if not KERAS_3 and mask is not None:  # layers inside take a mask only as an argument
            inputs, mask = tf.nest.map_structure(tf.identity, inputs), None
        return _FUNCTIONAL.call(self, inputs, training=training, mask=mask)

    if KERAS_3:  # the functional model of Keras 2 has one

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            """That of the class, with the first argument as it was in the recorded call."""
            of_class = next(cls for cls in type(self).__mro__[1:] if "compute_mask" in vars(cls))
            if of_class is KerasOpenedModel or self.recorded is None:
                return super().compute_mask(inputs, mask)
            recorded, tensors = self.recorded, tf.nest.flatten(inputs)
            masks = [None] * len(tensors) if mask is None else tf.nest.flatten(mask)

            def first(values: list[Any]) -> Any:
                return tf.nest.map_structure(lambda at: None if at is None else values[at], recorded.first)

            return vars(of_class)["compute_mask"](self, first(tensors), first(masks))

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

    def save_own_variables(self, store: Any) -> None:
        """Write nothing: the layers of the graph hold everything that the call reads."""

    def load_own_variables(self, store: Any) -> None:
        """Read nothing."""

    def get_config(self) -> dict[str, Any]:
        """The configuration of a functional model, even if the class has its own."""
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


def _fits(symbol: Any, tensor: Any) -> bool:
    """Whether a graph with this symbol takes a tensor."""
    sizes, given = tuple(symbol.shape), tuple(tensor.shape)
    return len(sizes) == len(given) and all(
        size is None or other is None or size == other for size, other in zip(sizes, given, strict=True)
    )


def _is_same(old: Any, value: Any) -> bool:
    return old is value or (isinstance(value, (bool, int, float, str)) and old == value)


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)


@functools.cache
def _class_of_both(cls: type) -> type:
    """A class of functional models that derives from ``cls`` as well; files name it KerasOpenedModel."""
    of_graph = {
        name: value
        for base in (*_FUNCTIONAL.__mro__[: _FUNCTIONAL.__mro__.index(keras.Model)][::-1], KerasOpenedModel)
        for name, value in vars(base).items()
        if name in ("__call__", "__dir__", "__setattr__") or not name.startswith("__")
    }
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    bases = (cls, KerasOpenedModel)  # Keras calls constructors in this order
    both = type(KerasOpenedModel.__name__, bases, {**of_graph, **about})  # files of weights name it
    keras.utils.register_keras_serializable(package=PACKAGE, name=KerasOpenedModel.__name__)(both)
    keras.utils.get_custom_objects()[f"{PACKAGE}>{KerasOpenedModel.__name__}"] = KerasOpenedModel
    return both


def functional_like(old: Any, inputs: Any, outputs: Any, again: Any) -> Any:
    """A functional model of a graph that is also of the class of ``old``, with its other attributes.

    Args:
        old: A model or layer.
        inputs: Symbols.
        outputs: Symbols.
        again: Gives the replacements of the layers and variables among the attributes.
    """
    cls: Any = type(old)
    if cls in (_FUNCTIONAL, keras.Model) or isinstance(old, keras.Sequential):
        return keras.Model(inputs, outputs, name=old.name)
    kind: Any = cls if isinstance(old, KerasOpenedModel) else _class_of_both(cls)
    fresh = kind.__new__(kind)
    _FUNCTIONAL.__init__(fresh, inputs, outputs, name=old.name)
    carry(old, fresh, again)
    if isinstance(old, KerasOpenedModel):
        fresh.recorded, fresh.read = old.recorded, old.read
    return fresh
