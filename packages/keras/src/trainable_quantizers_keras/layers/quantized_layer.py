"""Runs a Keras layer with quantized weights in place of its own, on Keras 2 and Keras 3."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf
from mct_quantizers.common.constants import POSITIONAL_WEIGHT
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid, worst_bits

from trainable_quantizers_keras.keras_version import KERAS_3, full_precision, infers_shapes, keras
from trainable_quantizers_keras.kernels.accumulator import limit_weight, round_bias, step_of_bias
from trainable_quantizers_keras.layers.attributes import is_variable
from trainable_quantizers_keras.layers.copies import INTERNAL, build_by_call, part_at, remember_shape, shapes_of
from trainable_quantizers_keras.layers.norm import FoldedNorm
from trainable_quantizers_keras.layers.slots import located, slot_of, substituted
from trainable_quantizers_keras.layers.state import StructuredState


class AnswersAsLayer:
    """A stand-in for a layer, through which the layer's attributes can be read and written."""

    layer: Any

    def __getattr__(self, name: str) -> Any:
        """The layer's attribute of this name."""
        if name.startswith("_") or "layer" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Write what the layer alone has to the layer: ``model.conv.strides = (2, 2)``."""
        of_any_layer = name.startswith("_") or name in INTERNAL or hasattr(type(self), name)
        if of_any_layer or name in vars(self) or not hasattr(vars(self).get("layer"), name):
            super().__setattr__(name, value)
        else:
            setattr(self.layer, name, value)


class QuantizedLayer(AnswersAsLayer, StructuredState):
    """The behaviour of a wrapper with quantizers; mixed into ``keras.layers.Wrapper``.

    The weights stay variables of the wrapped layer. A call puts their quantized values into the slots where
    the layer keeps them, below properties and without Keras taking notice, and takes them out again.
    """

    weights_quantizers: dict[Any, Any]
    weight_values: dict[int, Any]
    op_call_args: list[Any]
    op_call_kwargs: dict[str, Any]
    is_inputs_as_list: bool
    accumulator: AccumulatorGrid | None = None
    norm: FoldedNorm | None = None
    batch_norm: Any
    """The layer of ``norm``, if there is one; Keras 2 keeps track of no attribute that the class has."""

    def __getattr__(self, name: str) -> Any:
        """The layer's attribute of this name, for calls in Python that ask for it; weights are quantized as used."""
        value = super().__getattr__(name)
        quantized = name in vars(self).get("weights_quantizers", ()) and is_variable(value)
        return self.get_quantized_weights()[name] if quantized else value

    def build(self, input_shape: Any) -> None:
        """Build the layer; one that builds those inside it when it is called, by a call."""
        input_shape = shapes_of(input_shape)
        inside = [key.rpartition(".")[0] for key in self.weights_quantizers if "." in str(key)]
        if not all(part_at(self.layer, path).built for path in inside):
            build_by_call(self.layer, input_shape)
        super().build(input_shape)  # type: ignore[misc]
        remember_shape(self.layer, input_shape)
        if self.norm is not None and not self.batch_norm.built:
            shape = shapes_of(self.layer.compute_output_shape(input_shape))
            self.batch_norm.build(shape)
            remember_shape(self.batch_norm, shape)

    def _set_weights_vars(self, is_training: bool = True) -> None:
        """Create the quantizers' variables, and those of constants; ``build`` calls it once the layer is built."""
        named = [key for key in self.weights_quantizers if isinstance(key, str)]
        named += ["bias"] if self.accumulator is not None and self.accumulator.bias else []
        named += ["bias", self.norm.weight] if self.norm is not None else []
        self._slots = {key: slot_of(self.layer, key) for key in named}
        for key, quantizer in self.weights_quantizers.items():
            name = key if isinstance(key, str) else f"{POSITIONAL_WEIGHT}_{key}"
            if not isinstance(key, str):
                value = self.weight_values[key]
                initializer = keras.initializers.Constant(value)
                weight = self.add_weight(name=name, shape=value.shape, initializer=initializer, trainable=False)  # type: ignore[attr-defined]
                setattr(self, name, weight)
            quantizer.initialize_quantization(tuple(self._stored(key).shape), name, self)
        self.track_structure()

    def find_inputs(self, quantizers: Mapping[str, Any]) -> None:
        """Follow quantizers of the model, given by place, where the grid of the bias knows their places alone."""
        if self.accumulator is not None:
            known = [quantizers.get(each, each) if isinstance(each, str) else each for each in self.accumulator.inputs]
            self.accumulator = self.accumulator.with_inputs(known)

    def _weight(self, key: str | int) -> Any:
        """The tensor to quantize: the variable, or the variable scaled by the norm."""
        held = self._stored(key)
        if self.norm is None or key not in ("bias", self.norm.weight):
            return held
        return self.norm.bias_of(held) if key == "bias" else self.norm.weight_of(held)

    def _stored(self, key: str | int) -> Any:
        if isinstance(key, int):
            return getattr(self, f"{POSITIONAL_WEIGHT}_{key}")
        slots, slot = located(self.layer, self._slots[key])
        return slots[slot]

    def get_weights_vars(self) -> list[tuple[Any, Any, Any]]:
        """(key, weight, quantizer) of each quantized weight."""
        return [(key, self._weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def get_quantized_weights(self, training: Any = False) -> dict[Any, tf.Tensor]:
        """The quantized weights by key, as the next call uses them."""
        grid = None if infers_shapes() else self.accumulator
        if grid is not None:
            self._check_inputs(grid)
        found = {} if self.norm is None else {key: self._weight(key) for key in ("bias", self.norm.weight)}
        found |= {} if grid is None or not grid.bias else {"bias": self._rounded_bias(grid, training)}
        for key, weight, quantizer in self.get_weights_vars():
            weight = full_precision(weight)
            if grid is not None and grid.bits is not None:
                weight = self._limited(weight, quantizer, grid, training)
            trains = isinstance(quantizer, BaseTrainableQuantizer)
            found[key] = quantizer(weight, training) if trains else quantizer(tf.cast(weight, tf.float32))
        return found

    def _check_inputs(self, grid: AccumulatorGrid) -> None:
        """The quantizers of its input are there."""
        if all(getattr(each, "quantizer_parameters", isinstance(each, float)) for each in grid.inputs):
            return
        advice = "load the model with keras_load_quantized_model, which finds it again"
        raise invalid(self.name, "quantizer of the input", "one of the model", grid.inputs, advice)  # type: ignore[attr-defined]

    def _rounded_bias(self, grid: AccumulatorGrid, training: Any = False) -> tf.Tensor:
        (quantizer,) = self.weights_quantizers.values()
        bias = tf.cast(full_precision(self._weight("bias")), tf.float32)
        step = step_of_bias(quantizer.step(), bias.shape[0])
        coarsest = grid.input_step(tf.maximum)
        finest = grid.finest_of(coarsest, tf.minimum)
        rounded = round_bias(bias, step * coarsest, finest, grid.largest_bias)
        return _scheduled(quantizer, bias, rounded, training)

    def _bias_levels(self, grid: AccumulatorGrid, quantizer: Any) -> tf.Tensor:
        """The bias in finest steps, per weight channel; the largest bias if the channels differ from the bias's."""
        channels = self._weight(next(iter(self.weights_quantizers))).shape[grid.axis(quantizer)]
        if not grid.bias:
            return tf.zeros(channels)
        bias = self._rounded_bias(grid)
        levels = tf.abs(bias / (step_of_bias(quantizer.step(), bias.shape[0]) * grid.input_step(tf.minimum)))
        return levels if levels.shape[0] == channels else tf.fill([channels], tf.reduce_max(levels))

    def _limited(self, weight: tf.Tensor, quantizer: Any, grid: AccumulatorGrid, training: Any = False) -> tf.Tensor:
        axis = grid.axis(quantizer) or 0
        if grid.always_holds(quantizer, weight.shape.num_elements() // max(weight.shape[axis], 1)):
            return weight
        weight = tf.cast(weight, tf.float32)
        where = (axis, quantizer.specification.grid, grid.levels)
        room = grid.room(self._bias_levels(grid, quantizer))
        return _scheduled(quantizer, weight, limit_weight(weight, quantizer.step(), room, *where), training)

    def accumulator_bits(self) -> int | None:
        """Bits of two's complement that its sums need in the worst case, bias included; None if they lie on no grid."""
        grid = self.accumulator
        if grid is None or any(isinstance(each, (float, str)) for each in grid.inputs):
            return None
        ((key, _, quantizer),) = self.get_weights_vars()
        axis = grid.axis(quantizer)
        if axis is None:
            return None
        weight = np.moveaxis(self.get_quantized_weights()[key].numpy().astype(np.float64), axis, 0)
        levels = weight.reshape(len(weight), -1) / quantizer.step().numpy().reshape(-1, 1)
        bias = self._bias_levels(grid, quantizer).numpy()
        return worst_bits(levels.astype(np.int64), bias.astype(np.int64), *grid.levels)

    def sums(self, inputs: Any) -> tf.Tensor:
        """The layer's sums for an input on its grid, bias included, in steps; for ``accumulator_bits``."""
        grid: Any = self.accumulator
        ((key, _, quantizer),) = self.get_weights_vars()
        step, quantized = grid.input_step(tf.minimum), self.get_quantized_weights()
        levels = {self._slots[key]: quantized[key] / quantizer.broadcast(quantizer.step(), quantized[key])}
        if grid.bias:
            bias = quantized["bias"]
            levels[self._slots["bias"]] = bias / (step_of_bias(quantizer.step(), bias.shape[0]) * step)
        inside = self._slots[key].rpartition(".")[0]
        if "activation" in vars(part_at(self.layer, inside)):
            levels[f"{inside}.activation".lstrip(".")] = keras.activations.linear
        with _lock_of(self.layer), substituted(self.layer, levels):
            return self.layer.call(tf.cast(inputs, tf.float32) / step)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's output with its weights quantized.

        Keras 2 hands a symbol for ``training`` to the layers inside one that names it here.
        """
        return self._call_quantized(kwargs.get("training"), inputs, *args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the layer; Keras 2 asks only layers that support masks."""
        return self.layer.compute_mask(inputs, mask) if KERAS_3 or self.layer.supports_masking else None

    def _call_quantized(self, mode: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with _lock_of(self.layer):
            return self._call_alone(mode, inputs, *args, **kwargs)

    def _call_alone(self, mode: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer under a lock, or other threads would take the quantized weights for the weights."""
        kwargs = without_foreign_mask(self.layer, kwargs)
        quantized = {
            key: tf.cast(value, self.layer.compute_dtype)
            for key, value in self.get_quantized_weights(False if mode is None else mode).items()
        }
        if not self.weight_values:
            return self._normed(mode, quantized, lambda: self.layer(inputs, *args, **kwargs))
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for position in sorted(quantized):
            tensors.insert(position, quantized[position])
        arguments = [tensors] if self.is_inputs_as_list else tensors
        return self.layer(*arguments, *self.op_call_args, *args, **self.op_call_kwargs, **kwargs)

    def norm_mode(self, mode: Any) -> Any:
        """Whether a call in this mode normalizes by its batch: as one of the norm itself would."""
        trains = self.norm is not None and self.batch_norm.trainable and not infers_shapes()
        return mode if trains and mode is not None else False

    def _normed(self, mode: Any, quantized: dict[Any, tf.Tensor], call: Callable[[], Any]) -> Any:
        """A call with quantized weights in their slots, normalized by its batch if the norm trains."""

        def with_weights(weights: dict[Any, tf.Tensor]) -> Any:
            with substituted(self.layer, {self._slots[key]: value for key, value in weights.items()}):
                return call()

        norm, normalizes = self.norm, self.norm_mode(mode)
        if norm is None or normalizes is False:
            return with_weights(quantized)

        def normalized() -> Any:
            result = with_weights({**quantized, "bias": tf.zeros_like(quantized["bias"])})
            mask = getattr(result, "_keras_mask", None)
            return norm.normalized(result, self._stored("bias"), **({} if mask is None else {"mask": mask}))

        if tf.is_tensor(normalizes):
            return tf.cond(tf.cast(normalizes, tf.bool), normalized, lambda: with_weights(quantized))
        return normalized() if normalizes else with_weights(quantized)


def _scheduled(quantizer: Any, value: tf.Tensor, changed: tf.Tensor, training: Any) -> tf.Tensor:
    """A bias or weight that the accumulator changed, mixed with the original as its schedule asks."""
    return changed if quantizer.schedule is None or training is False else quantizer.blended(value, changed, training)


_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()


def _lock_of(layer: Any) -> threading.RLock:
    return _locks.setdefault(layer, threading.RLock())


def without_foreign_mask(layer: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a wrapper's call that are for its layer: Keras 2 gives a mask to any call that takes keywords."""
    takes_mask = "mask" in inspect.signature(layer.call).parameters
    return {name: value for name, value in kwargs.items() if name != "mask" or takes_mask}
