"""TensorFlow functions in graphs: on symbolic tensors of Keras 3, and in files of Keras 2."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import tensorflow as tf
from tensorflow.python.util.dispatch import GlobalOpDispatcher
from trainable_quantizers_core.errors import invalid

from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, keras

_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextmanager
def functions_on_symbols() -> Iterator[None]:
    """Let functions of TensorFlow take symbols: each call becomes an operation of the graph. Keras 2 does by itself.

    Examples:
        >>> with functions_on_symbols():
        ...     tf.nn.relu(keras.Input((3,))).shape[1]
        3
    """
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


@functools.cache
def _public_names() -> dict[int, str]:
    """Names below ``tf`` of functions, by identity; the shortest of several."""
    found: dict[int, str] = {}

    def walk(module: ModuleType, prefix: str) -> None:
        for name, value in vars(module).items():
            if name.startswith("_") or name in ("keras", "compat", "raw_ops", "experimental", "estimator"):
                continue
            if isinstance(value, ModuleType) and prefix.count(".") < 2 and "tensorflow" in value.__name__:
                walk(value, f"{prefix}{name}.")
            elif callable(value):
                key = id(inspect.unwrap(value))
                found[key] = min(found.get(key, f"{prefix}{name}"), f"{prefix}{name}", key=len)

    for name in ("math", "nn", "linalg", "image", "signal", "strings", "random", "bitwise", "sparse"):
        walk(getattr(tf, name), f"{name}.")
    walk(tf, "")
    return found


def _name_of(function: Callable[..., Any]) -> str:
    """The public name of a function; of what stands behind an operator such as ``+``, that of its function."""
    name = _public_names().get(id(inspect.unwrap(function)))
    if name is None:
        plain = function.__name__.strip("_").removesuffix("_dispatch")
        name = {"mul": "math.multiply", "truediv": "math.truediv", "sub": "math.subtract"}.get(plain, f"math.{plain}")
    if _function(name) is None:
        raise TypeError(f"tf has no public function {function.__module__}.{function.__name__}")
    return name


def _function(name: str) -> Any:
    found: Any = tf
    for step in name.split("."):
        found = getattr(found, step, None)
    return found


if KERAS_3:

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasTensorFlowFunction(keras.Operation):
        """A function of TensorFlow as an operation of a functional model.

        Args:
            function: Its name below ``tf``, such as ``nn.relu``.
            name: Of the operation.

        Raises:
            QuantizerError: TensorFlow has no such function.

        Examples:
            >>> KerasTensorFlowFunction("nn.relu")(tf.constant([-1.0, 2.0])).numpy().tolist()
            [0.0, 2.0]
        """

        def __init__(self, function: str, name: str | None = None) -> None:
            super().__init__(name=name)
            self.function = function
            self._call = _function(function)
            if not callable(self._call):
                advice = "the file was written with another version of TensorFlow"
                raise invalid("KerasTensorFlowFunction", "function", "the name of a function of tf", function, advice)

        def call(self, *args: Any, **kwargs: Any) -> Any:
            """The result of the function."""
            return self._call(*args, **kwargs)

        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
            """The symbols of the result; Keras calls the product of a tensor and a number sparse, and it is not."""

            def dense(value: Any) -> Any:
                is_sparse = isinstance(value, keras.KerasTensor) and value.sparse
                return keras.KerasTensor(value.shape, value.dtype) if is_sparse else value

            if not self.function.startswith("sparse."):
                args, kwargs = tf.nest.map_structure(dense, (args, kwargs))
            return super().compute_output_spec(*args, **kwargs)

        def get_config(self) -> dict[str, Any]:
            """The arguments of the constructor."""
            return {"function": self.function, "name": self.name}

    class _Dispatcher(GlobalOpDispatcher):
        """TensorFlow asks it about arguments that a function does not take."""

        def handle(self, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            symbolic = any(isinstance(value, keras.KerasTensor) for value in tf.nest.flatten((args, kwargs)))
            if not (_recording.get() and symbolic):
                return self.NOT_SUPPORTED
            return KerasTensorFlowFunction(_name_of(op), name=None)(*args, **kwargs)

    _Dispatcher().register()

else:

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasEinsum(keras.layers.Layer):
        """``tf.einsum`` as a layer on a list of tensors: files of Keras 2 do not keep the tensors of the function.

        Args:
            equation: Such as ``ij,jk->ik``.

        Examples:
            >>> KerasEinsum("ij,jk->ik")([tf.ones((2, 3)), tf.ones((3, 4))]).shape
            TensorShape([2, 4])
        """

        def __init__(self, equation: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.equation = equation

        def call(self, inputs: Any) -> Any:
            """The sum of the products."""
            return tf.einsum(self.equation, *inputs)

        def get_config(self) -> dict[str, Any]:
            """The arguments of the constructor."""
            return {**super().get_config(), "equation": self.equation}


def einsum(equation: str, *inputs: Any) -> Any:
    """``tf.einsum`` of symbols of Keras 2, in a form that files keep."""
    return KerasEinsum(equation)(list(inputs))
