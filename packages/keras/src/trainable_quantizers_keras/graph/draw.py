"""Draws a recorded call as the graph of a copy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tensorflow as tf

from trainable_quantizers_keras.graph.kinds import word_of
from trainable_quantizers_keras.graph.symbolic import Recording
from trainable_quantizers_keras.keras_version import keras, regularizer_of, rename
from trainable_quantizers_keras.layers.calls import Call, behind
from trainable_quantizers_keras.layers.weight import KerasWeight


class Drawing:
    """Draws a recorded call as the graph of a copy."""

    def __init__(self, recording: Recording, opening: Any) -> None:
        self.recording = recording
        self.opening = opening
        self.names = Names()
        self.weights: dict[int, KerasWeight] = {}  # by identity of the symbol
        self.symbols: dict[int, Any] = {}  # of the copy, by identity of the symbol
        self.inlined = {id(owner): owner for owner in recording.owners_of_used() if owner is not recording.layer}
        for symbol in recording.weights_to_read():
            self.weights[id(symbol)] = self._weight(symbol)

    def _weight(self, symbol: Any) -> KerasWeight:
        owner, path, variable = self.recording.weights[id(symbol)]
        name = path.strip("_") if owner is self.recording.layer else f"{owner.name}_{path.strip('_')}"
        layer = KerasWeight(
            tuple(variable.shape),
            weight_dtype=tf.as_dtype(variable.dtype).name,
            weight_trainable=variable.trainable,
            regularizer=regularizer_of(owner, variable),
            constraint=getattr(variable, "constraint", None),
            name=self.names.unique(name),
            dtype=getattr(owner, "dtype_policy", None),
        )
        layer.build(None)
        layer.weight.assign(variable)
        return layer

    def stand_in(self, call: Call) -> Any:
        """The replacement of a call: a layer or function, or for a weight that was read, the layer that gives it."""
        if call.node.is_input:
            (symbol,) = tf.nest.flatten(call.node.outputs)
            return lambda first: self._read(symbol, first)
        if id(call.layer) in self.inlined:
            return lambda *args, **kwargs: self.recording.inline(call.layer, self.symbols, args, kwargs)
        known = id(call.layer) in self.opening.copies
        fresh = self.opening.again(call.layer, call)
        if fresh is not None and not known and hasattr(fresh, "name"):
            self.names.give(fresh, self.recording.names.get(id(call.layer)), word_of(fresh))
        return self.recording.in_context(call, fresh)

    def _read(self, symbol: Any, first: Any) -> Any:
        if id(symbol) not in self.symbols:
            self.symbols[id(symbol)] = self.weights[id(symbol)](first)
        return self.symbols[id(symbol)]

    def settle(self) -> None:
        """Set the attributes of the copy to the weights that its graph reads."""
        for identity, layer in self.weights.items():
            owner, _, variable = self.recording.weights[identity]
            self.opening.copies[id(variable)] = layer.weight
            if owner is not self.recording.layer:
                self.opening.copies.setdefault(id(owner), layer)


class Names:
    """Names of the layers and functions of a graph: attributes of the layer that was opened, and words of functions."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._given: set[int] = set()

    def unique(self, name: str) -> str:
        """The name, with a number if it is taken."""
        self._count[name] += 1
        return name if self._count[name] == 1 else self.unique(f"{name}_{self._count[name] - 1}")

    def give(self, fresh: Any, path: str | None, word: str) -> None:
        """Name a layer after its attribute, and a function by its word."""
        self._given.add(id(fresh))
        of_layer = isinstance(fresh, keras.layers.Layer)
        by_word = not of_layer or type(fresh).__name__ in ("TFOpLambda", "SlicingOpLambda", "Softmax", "KerasEinsum")
        if path is None and by_word:
            path = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in word)
        rename(fresh, self.unique(path.strip("_") if path else fresh.name))

    def of_functions(self, outputs: Any) -> None:
        """Name the functions that have no name of this graph yet."""
        for layer, _ in reversed(list(behind(outputs))):
            unnamed = not isinstance(layer, keras.layers.Layer) or type(layer).__name__ in ("Softmax", "KerasEinsum")
            if unnamed and id(layer) not in self._given:
                self.give(layer, None, word_of(layer))
