"""Wrappers of layers with quantized weights, for Keras 2 and Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import mct_quantizers
import numpy as np
import tensorflow as tf
from mct_quantizers import BaseInferableQuantizer
from trainable_quantizers_core import BaseTrainableQuantizer
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.accumulator import AccumulatorGrid

from trainable_quantizers_keras.keras_version import KERAS_3, PACKAGE, full_precision, keras
from trainable_quantizers_keras.layers.calls import behind, masked
from trainable_quantizers_keras.layers.copies import copied
from trainable_quantizers_keras.layers.holder import KerasActivationQuantizationHolder
from trainable_quantizers_keras.layers.norm import FoldedNorm
from trainable_quantizers_keras.layers.quantized_layer import QuantizedLayer
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.serialization import NamedWeights, deserialize_quantizer
from trainable_quantizers_keras.layers.slots import located

if KERAS_3:

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasQuantizationWrapper(QuantizedLayer, NamedWeights, keras.layers.Wrapper):
        """The wrapper of mct-quantizers, native to Keras 3: a layer with inferable (or any) quantizers.

        Args:
            layer: The layer.
            weights_quantizers: Quantizers by name of the weight, or by position of a constant argument.
            weight_values: Constant arguments of the call, by position.
            op_call_args: Further positional arguments of each call.
            op_call_kwargs: Further keyword arguments of each call.
            is_inputs_as_list: Whether the layer takes its tensors as one list.

        Raises:
            QuantizerError: no layer, no quantizer, or a key of the wrong type.

        Examples:
            >>> from mct_quantizers.keras.quantizers import WeightsPOTInferableQuantizer
            >>> quantizer = WeightsPOTInferableQuantizer(num_bits=2, threshold=[1.0], per_channel=False)
            >>> layer = keras.layers.Dense(1, kernel_initializer="ones")
            >>> KerasQuantizationWrapper(layer, {"kernel": quantizer})(tf.ones((1, 3))).numpy().tolist()
            [[1.5]]
        """

        def __init__(
            self,
            layer: Any,
            weights_quantizers: Mapping[Any, BaseInferableQuantizer],
            weight_values: Mapping[int, np.ndarray] | None = None,
            op_call_args: list[Any] | None = None,
            op_call_kwargs: Mapping[str, Any] | None = None,
            is_inputs_as_list: bool = False,
            **kwargs: Any,
        ) -> None:
            _check(type(self).__name__, layer, weights_quantizers, weight_values)
            super().__init__(layer, **kwargs)
            for inside in layer._flatten_layers():
                inside._remat_mode = None  # recomputed apart from the wrapper it would read the float weights
                vars(inside)["quantize"] = _not_quantized_by_keras
            self.weights_quantizers = dict(weights_quantizers)
            self.weight_values = {key: np.asarray(value) for key, value in (weight_values or {}).items()}
            self.op_call_args = list(op_call_args or [])
            self.op_call_kwargs = dict(op_call_kwargs or {})
            self.is_inputs_as_list = is_inputs_as_list
            self.supports_masking = layer.supports_masking
            if not self.weight_values:  # Keras looks for call arguments and their masks by these names
                self._call_signature = inspect.signature(layer.call)

        def build(self, input_shape: Any) -> None:
            """Build the layer, then create the quantizers' variables."""
            if self.weight_values:  # the layer's inputs are not the wrapper's: it builds itself when called
                self.built = True
            else:
                super().build(input_shape)
            self._set_weights_vars()
            if not self.trainable:  # Keras asks the variables, which do not know the wrapper
                self.layer.trainable = False

        def call(self, inputs: Any, *args: Any, training: Any = None, **kwargs: Any) -> Any:
            """The layer's output with its weights quantized; ``training`` reaches the layer by itself."""
            return self._call_quantized(training, inputs, *args, **kwargs)

        def get_build_config(self) -> dict[str, Any]:
            """The input shapes that the wrapper and the layer were built with."""
            return {**(super().get_build_config() or {}), "layer": self.layer.get_build_config()}

        def build_from_config(self, config: Mapping[str, Any]) -> None:
            """Build the layer as it was built."""
            if config.get("layer") and not self.layer.built:
                self.layer.build_from_config(config["layer"])
            self.build(config.get("input_shape", next(iter(config.get("shapes_dict", {}).values()), None)))

        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
            """The output spec of the layer, which need not trace its quantizers for it."""
            if self.weight_values:
                return keras.Operation.compute_output_spec(self, *args, **kwargs)
            if "training" not in inspect.signature(self.layer.call).parameters:
                kwargs.pop("training", None)
            return self.layer.compute_output_spec(*args, **kwargs)

        def compute_output_shape(self, input_shape: Any) -> Any:
            """The output shape of the layer."""
            return self.layer.compute_output_shape(input_shape)

        def get_config(self) -> dict[str, Any]:
            """The layer, the quantizers and the constants."""
            quantizers = {str(key): keras.utils.serialize_keras_object(q) for key, q in self.weights_quantizers.items()}
            config = {**super().get_config(), "weights_quantizers": quantizers}
            if self.weight_values:
                config["weight_values"] = {str(key): value.tolist() for key, value in self.weight_values.items()}
                config["op_call_args"] = list(self.op_call_args)
                config["op_call_kwargs"] = dict(self.op_call_kwargs)
                config["is_inputs_as_list"] = self.is_inputs_as_list
            return config

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> KerasQuantizationWrapper:
            """The wrapper that ``get_config`` was called on."""
            config = dict(config)
            constants = config.pop("weight_values", None)
            key_type = str if constants is None else int
            quantizers = config.pop("weights_quantizers")
            return cls(
                layer=keras.utils.deserialize_keras_object(config.pop("layer")),
                weights_quantizers={key_type(key): deserialize_quantizer(q) for key, q in quantizers.items()},
                weight_values=constants and {int(k): np.asarray(v, np.float32) for k, v in constants.items()},
                **config,
            )

    KerasInferableQuantizationWrapper = KerasQuantizationWrapper

else:
    KerasQuantizationWrapper = mct_quantizers.KerasQuantizationWrapper  # type: ignore[misc]

    @keras.utils.register_keras_serializable(package=PACKAGE)
    class KerasInferableQuantizationWrapper(QuantizedLayer, KerasQuantizationWrapper):  # type: ignore[no-redef, misc]
        """The wrapper for what that of mct-quantizers does not do: masks, weights of layers inside, mixed precision."""


_Bases: tuple[type, ...] = (KerasQuantizationWrapper,) if KERAS_3 else (QuantizedLayer, KerasQuantizationWrapper)


@keras.utils.register_keras_serializable(package=PACKAGE)
class KerasTrainableQuantizationWrapper(*_Bases):  # type: ignore[misc]
    """A layer whose weights are quantized by trainable quantizers.

    The variables of the quantizers are created when the wrapper is built, before the first batch.

    Args:
        layer: The layer.
        weights_quantizers: Quantizers by name of the weight, or by position of a constant argument.
        args: Further arguments of ``KerasQuantizationWrapper``.
        accumulator: The grid of the layer's sums, on which its bias is to lie, and the bits that they do not exceed;
            None leaves the bias in float.
        norm: The batch norm behind the layer, which has a bias: it normalizes in training, and is a part of the
            quantized weight and of the bias all along.
        kwargs: Further arguments of ``KerasQuantizationWrapper``.

    Raises:
        QuantizerError: the layer has no weight of a name, or a key or quantizer is of the wrong type; or
            weights have no power-of-two quantizer, for ``accumulator``; or a quantizer writes weights, with ``norm``.

    Examples:
        >>> from trainable_quantizers_keras import *
        >>> config = TrainableQuantizerWeightsConfig(
        ...     QuantizationMethod.POWER_OF_TWO, 4, {THRESHOLD: 1.0}, True, -1, True, MIN_THRESHOLD)
        >>> layer = KerasTrainableQuantizationWrapper(
        ...     keras.layers.Dense(2), {"kernel": LSQSymmetricWeightsTrainableQuantizer(config)})
        >>> layer(np.ones((1, 3), np.float32)).shape
        TensorShape([1, 2])
        >>> type(layer.convert_to_inferable_quantizers()).__name__
        'KerasQuantizationWrapper'
    """

    def __init__(
        self,
        layer: Any,
        weights_quantizers: Mapping[Any, BaseInferableQuantizer],
        *args: Any,
        accumulator: AccumulatorGrid | None = None,
        norm: FoldedNorm | None = None,
        **kwargs: Any,
    ):
        constants = kwargs.get("weight_values", args[0] if args else None)
        _check(type(self).__name__, layer, weights_quantizers, constants)
        if accumulator is not None:
            has_bias = bool(getattr(layer, "use_bias", False) or getattr(layer, "bias_axes", None))
            accumulator.check(type(self).__name__, layer, has_bias, weights_quantizers)
        super().__init__(layer, weights_quantizers, *args, **kwargs)
        self.accumulator = accumulator
        self._take_norm(norm)

    def _take_norm(self, norm: FoldedNorm | None) -> None:
        for quantizer in self.weights_quantizers.values() if norm is not None else ():
            rule = getattr(quantizer, "oscillations", None)
            if rule is not None and rule.freezes:
                advice = "fold norms before training with fold_batch_norm=True, or let oscillations be followed alone"
                raise invalid(self.name, "oscillations", "without freezing behind a batch norm", rule, advice)
        self.norm = norm
        if norm is not None:
            self.batch_norm = norm.layer

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's output; in a graph that a file describes, first find the quantizers of the input by name."""
        named = {each for each in self.accumulator.inputs if isinstance(each, str)} if self.accumulator else ()
        if named:
            self.find_inputs(_held_behind((inputs, args, kwargs), named))
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the wrapper."""
        config = super().get_config()
        if self.accumulator is not None:
            grid = self.accumulator
            places = [getattr(each, "place", each) for each in grid.inputs]
            config["accumulator"] = {**vars(grid), "inputs": places}
        if self.norm is not None:
            config["norm"] = self.norm.get_config()
        return config  # type: ignore[no-any-return]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> KerasTrainableQuantizationWrapper:
        """The wrapper from the result of ``get_config``; it finds the quantizer of its input when a graph is drawn."""
        config = dict(config)
        grid, norm = config.pop("accumulator", None), config.pop("norm", None)
        wrapper = super().from_config(config)
        wrapper._take_norm(None if norm is None else FoldedNorm.from_config(norm))
        wrapper.accumulator = None if grid is None else AccumulatorGrid(**grid)
        return wrapper  # type: ignore[no-any-return]

    def inferable_class(self, in_graph: bool) -> type:
        """The class that takes its place when it is converted.

        Args:
            in_graph: Whether its calls are known; where they are not, they may ask for attributes of the layer, and
                Keras 2 may hand it a mask. Both are beyond the class of mct-quantizers: it becomes one of this package.
        """
        masks = not KERAS_3 and (getattr(self.layer, "mask_zero", False) or masked(self._inbound_nodes))
        inside = any("." in key for key in self.weights_quantizers)
        beyond = not in_graph or masks or inside or self.layer.compute_dtype != "float32"
        return KerasInferableQuantizationWrapper if beyond and not self.weight_values else KerasQuantizationWrapper

    def convert_to_inferable_quantizers(self, in_graph: bool = True) -> Any:
        """A new ``KerasQuantizationWrapper`` of inferable quantizers with the same outputs, not trainable.

        A weight whose quantizer is disabled stays in float.

        Args:
            in_graph: Whether its calls are known; see ``inferable_class``.

        Raises:
            QuantizerError: the wrapper is not built.
        """
        if not self.built:
            advice = "call it, or its model, on a batch first"
            raise invalid(type(self).__name__, "wrapper", "built", self.name, advice)
        inferable = {
            key: quantizer.convert2inferable() if hasattr(quantizer, "convert2inferable") else quantizer
            for key, quantizer in self.weights_quantizers.items()
            if getattr(quantizer, "enabled", True)
        }
        layer = copied(self.layer)
        grid = self.accumulator

        def put(key: str, value: Any) -> None:
            slots, slot = located(layer, self._slots[key])
            slots[slot].assign(tf.cast(value, slots[slot].dtype))

        for key in () if self.norm is None else ("bias", self.norm.weight):
            put(key, self._weight(key))
        if grid is not None and grid.bias:
            put("bias", self._rounded_bias(grid))
        if not self.weight_values:
            for key, weight, quantizer in self.get_weights_vars():
                weight = full_precision(weight)
                if grid is not None and grid.bits is not None:
                    weight = self._limited(weight, quantizer, grid)
                put(key, _deployed(weight, quantizer))
            kind = self.inferable_class(in_graph)
            return kind(layer, inferable, name=self.name, trainable=False, dtype=layer.dtype_policy)
        constants = {
            key: _deployed(weight, each).numpy() for key, weight, each in self.get_weights_vars() if key in inferable
        }
        options = (self.op_call_args, self.op_call_kwargs, self.is_inputs_as_list)
        return KerasQuantizationWrapper(layer, inferable, constants, *options, name=self.name, trainable=False)


def _not_quantized_by_keras(mode: Any = None, *args: Any, **kwargs: Any) -> None:
    """Refuse ``quantize`` of Keras 3, which would replace the weights that a wrapper quantizes with integers."""
    advice = "prepare quantized it already: let Keras quantize the float model, or leave it out"
    raise invalid("quantize", "layer", "one that nothing quantizes", "a layer with quantizers", advice)


def _deployed(weight: Any, quantizer: Any) -> Any:
    """The weight as an inferable quantizer is given it."""
    weight = full_precision(weight)
    return quantizer.deployed_weight(weight) if isinstance(quantizer, BaseTrainableQuantizer) else weight


def _held_behind(values: Any, names: set[str]) -> dict[str, Any]:
    """The quantizers, by the names of their holders, of the holders that symbols come from."""
    found: dict[str, Any] = {}
    for layer, _ in behind(values):
        holder = layer.holder if isinstance(layer, KerasQuantizedOutput) else layer
        if holder.name in names and isinstance(holder, KerasActivationQuantizationHolder):
            found[holder.name] = holder.activation_holder_quantizer
        if len(found) == len(names):
            break
    return found


def _check(owner: str, layer: Any, quantizers: Any, constants: Any) -> None:
    if not isinstance(layer, keras.layers.Layer):
        advice = "pass the layer to wrap"
        if isinstance(layer, type) or "keras" in type(layer).__module__:
            advice = "pass an instance, made by the same Keras: tf.keras here and TF_USE_LEGACY_KERAS choose it"
        raise invalid(owner, "layer", f"a layer of {keras.layers.Layer.__module__.partition('.')[0]}", layer, advice)
    if not isinstance(quantizers, Mapping):
        raise invalid(owner, "weights_quantizers", "a dictionary", quantizers, "write {'kernel': quantizer}")
    for key, quantizer in quantizers.items():
        if not isinstance(quantizer, BaseInferableQuantizer):
            raise invalid(owner, f"quantizer of {key!r}", "a quantizer", quantizer, "build it from its configuration")
        if not isinstance(key, str if not constants else int):
            rule = "the name of a weight" if not constants else "the position of a constant"
            raise invalid(
                owner, "weights_quantizers key", rule, key, "constants go with weight_values, weights without"
            )
    if constants and set(constants) != set(quantizers):
        advice = "name each constant in both"
        raise invalid(owner, "weights_quantizers", f"at positions {sorted(constants)}", list(quantizers), advice)
