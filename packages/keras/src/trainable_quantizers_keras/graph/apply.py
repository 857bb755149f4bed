"""Puts quantizers into a model, at the places that the core chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.graph.settle import Settled

from trainable_quantizers_keras.graph.fold import taken_apart
from trainable_quantizers_keras.graph.record import Place, RecordedCall, RecordedModel, place_of_part
from trainable_quantizers_keras.layers.calls import Call
from trainable_quantizers_keras.layers.copies import copied, input_shape_of
from trainable_quantizers_keras.layers.holder import (
    HOLDER_SUFFIX,
    KerasMaskedActivationQuantizationHolder,
    KerasTrainableActivationQuantizationHolder,
)
from trainable_quantizers_keras.layers.quantized_output import KerasQuantizedOutput
from trainable_quantizers_keras.layers.wrapper import KerasTrainableQuantizationWrapper


class Placed:
    """A recorded model and the quantizers that its copy gets.

    Args:
        model: Stays as it is.
        recorded: Its graph.
        settled: The core's decision for each operation.
        apart: Layers and the norms behind them that are to fold at conversion, by identity of the layer.

    Raises:
        QuantizerError: a layer has the name that a holder is to have.
    """

    def __init__(
        self,
        model: Any,
        recorded: RecordedModel,
        settled: Sequence[Settled],
        apart: Mapping[int, tuple[Any, Any]],
    ) -> None:
        self.model, self.apart = model, apart
        self.quantizers: dict[int, dict[str, Any]] = {}  # of weights, by identity of the layer and name
        self.holders: dict[Place, dict[int, Any]] = {}  # by call and result
        self.accumulators: dict[int, Any] = {}  # by identity of the layer
        self.corrected: list[Any] = []
        """Layers whose biases are to be corrected."""
        names = {layer.name for layer in model._flatten_layers()}
        for call, each in zip(recorded.calls, settled, strict=True):
            for weight, quantizer in each.weights.items():
                layer, name = call.holder_of(weight)
                self.quantizers.setdefault(id(layer), {})[name] = quantizer
            if each.output is not None:
                masked = call.masked
                kind = KerasMaskedActivationQuantizationHolder if masked else KerasTrainableActivationQuantizationHolder
                name = _holder_name(call)
                if name in names:
                    rule = f"another than that of the quantizer behind {call.layer.name!r}"
                    raise invalid("prepare", "name of a layer", rule, name, "rename one of the two layers")
                holder = kind(each.output, name=name, dtype="float32")
                self.holders.setdefault(call.place, {})[call.result] = holder
            self.corrected += [call.layer] if each.corrects_bias else []
            if each.accumulator is not None:
                self.accumulators[id(call.layer)] = each.accumulator

    def apply(self, copies: dict[int, Any]) -> Any:
        """A copy of the model with the quantizers in it; ``copies`` gets what stands for each layer, by identity."""
        return copied(self.model, self._replace, self._after, copies)

    def _replace(self, layer: Any, call: Call | None) -> Any:
        """The replacement of a layer in the copy: its wrapper, and outside graphs a layer of wrapper and holder."""
        replacement = layer
        if id(layer) in self.quantizers:
            inner, norm = taken_apart(*self.apart[id(layer)]) if id(layer) in self.apart else (copied(layer), None)
            replacement = KerasTrainableQuantizationWrapper(
                inner,
                self.quantizers[id(layer)],
                accumulator=self.accumulators.get(id(layer)),
                norm=norm,
                **_named(layer),
                trainable=layer.trainable or (norm is not None and norm.layer.trainable),
            )
        if call is not None:
            return replacement
        if replacement is not layer:
            replacement.build(input_shape_of(layer))  # a graph does it by its calls
        holder = self.holders.get(place_of_part(layer), {}).get(0)
        if holder is None:
            return replacement
        holder.build(None)
        inner = copied(layer) if replacement is layer else replacement
        return KerasQuantizedOutput(inner, holder, **_named(layer))

    def _after(self, call: Call) -> Any:
        """The holder for the results of a call."""
        holders = self.holders.get(call.place)
        if holders is None or len(call.results) == 1:
            return None if holders is None else holders[0]

        def quantized(results: Any) -> Any:
            values = tf.nest.flatten(results)
            given = [holders[at](value) if at in holders else value for at, value in enumerate(values)]
            return tf.nest.pack_sequence_as(results, given)

        return quantized


def _holder_name(call: RecordedCall) -> str:
    _, _, index = call.place
    result = f".{call.result}" if call.result else ""
    return call.layer.name + HOLDER_SUFFIX + (f"_{index}" if index else "") + result


def _named(layer: Any) -> dict[str, Any]:
    """The name and the precision of a layer."""
    policy = getattr(layer, "dtype_policy", None)
    return {"name": layer.name} if policy is None else {"name": layer.name, "dtype": policy}
