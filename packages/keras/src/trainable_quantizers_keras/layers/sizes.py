"""Symbols for sizes that only a batch determines; ``keras.ops.shape`` of Keras 3 gives None for them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from trainable_quantizers_keras.keras_version import KERAS_3, keras
from trainable_quantizers_keras.layers import function as functions

_MODULES = ("keras.ops", "keras.src.ops")
_OF_TENSORFLOW = {  # functions of keras.ops that take sizes, and those of tf that take them as tensors
    "reshape": "reshape",
    "broadcast_to": "broadcast_to",
    "tile": "tile",
    "repeat": "repeat",
    "slice": "slice",
    "zeros": "zeros",
    "ones": "ones",
    "full": "fill",
    "arange": "range",
}
_NAMES = {  # of arguments, where those of tf have others
    "reshape": {"newshape": "shape"},
    "tile": {"repeats": "multiples"},
    "slice": {"inputs": "input_", "start_indices": "begin"},
}


@contextmanager
def sizes_as_symbols() -> Iterator[None]:
    """Let ``keras.ops.shape`` give symbols for unknown sizes of symbols, and functions take them.

    Keras 2 has no such functions, and ``tf.shape`` gives symbols there.
    """
    modules = [importlib.import_module(name) for name in _MODULES] if KERAS_3 else []
    kept = [(module, name, getattr(module, name)) for module in modules for name in ("shape", *_OF_TENSORFLOW)]
    for module, name, function in kept:
        setattr(module, name, _shape(function) if name == "shape" else _taking_sizes(name, function))
    try:
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def _is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _shape(shape: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(shape)
    def with_symbols(x: Any) -> Any:
        known = shape(x)
        if not _is_symbol(x) or None not in known:
            return known
        sizes = functions.KerasTensorFlowFunction("shape")(x)
        return tuple(sizes[axis] if size is None else size for axis, size in enumerate(known))

    return with_symbols


def _taking_sizes(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of keras.ops; where symbols stand among sizes, that of tf."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        first = 0 if name in ("zeros", "ones", "full", "arange") else 1
        sizes = [*args[first:], *(value for key, value in kwargs.items() if key not in ("x", "inputs"))]
        if not any(map(_is_symbol, tf.nest.flatten(sizes))):
            return function(*args, **kwargs)
        dtype = kwargs.pop("dtype", None)
        names = _NAMES.get(name, {})
        given = {names.get(key, key): value for key, value in kwargs.items() if value is not None}
        args = tuple(value for value in args if value is not None)
        if "x" in given:
            args = (given.pop("x"), *args)
        result = functions.KerasTensorFlowFunction(_OF_TENSORFLOW[name])(*args, **given)
        return result if dtype is None else keras.ops.cast(result, dtype)

    return called
