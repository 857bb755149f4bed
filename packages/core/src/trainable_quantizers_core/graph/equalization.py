"""Cross-layer equalization: channels scaled from one layer into the next, so that weight ranges become similar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainable_quantizers_core.graph.operation import ModelGraph

_KINDS = ("conv", "depthwise_conv", "linear")
_SWEEPS = 40
"""Of all pairs: in a chain of layers, one pair disturbs the next until the ranges settle."""
_LARGEST = 16
"""Exponent of a scale: channels that are nearly dead would ask for any."""


def equalizable(graph: ModelGraph) -> list[tuple[int, int]]:
    """Pairs of positions: a layer, and the only layer that reads its result, directly or past functions like ReLU.

    Both are convolutions, or both linear. A bounded function, such as ReLU6, stands between no pair: its bound
    would have to differ by channel.

    Examples:
        >>> from trainable_quantizers_core.graph.operation import Operation, Weight
        >>> one, other = (Operation(name, "conv", "Conv2d", inputs, name, (Weight("weight", 0),), scales=True)
        ...               for name, inputs in (("one", (0,)), ("other", (2,))))
        >>> relu = Operation("relu", "activation", "ReLU", (1,), scales=True)
        >>> equalizable(ModelGraph((Operation("x", "input", "input"), one, relu, other), outputs=(3,)))
        [(1, 3)]
    """
    layers = [operation.layer for operation in graph if operation.layer]

    def fits(position: int) -> bool:
        each = graph[position]
        alone = layers.count(each.layer) == 1 and len(each.weights) == 1 and len(each.inputs) == 1
        return each.kind in _KINDS and each.scales and alone

    pairs = []
    for position in filter(fits, range(len(graph))):
        after = graph.follower_at(position)
        while after is not None and graph[after].kind == "activation" and graph[after].scales:
            after = graph.follower_at(after)
        if after is not None and fits(after) and (graph[after].kind == "linear") == (graph[position].kind == "linear"):
            pairs.append((position, after))
    return pairs


@dataclass
class ScaledWeight:
    """The weight of a layer as equalization sees it.

    Args:
        magnitudes: Largest magnitudes, of shape (inputs of a group, outputs).
        groups: Of a convolution; 1 otherwise.
    """

    magnitudes: np.ndarray
    groups: int = 1

    def __post_init__(self) -> None:
        inputs, outputs = self.magnitudes.shape
        self.exponents_in = np.zeros(inputs * self.groups)
        self.exponents_out = np.zeros(outputs)

    def _exponents(self) -> np.ndarray:
        """Of shape (inputs of a group, outputs)."""
        inputs, outputs = self.magnitudes.shape
        by_group = self.exponents_in.reshape(self.groups, inputs).repeat(outputs // self.groups, 0)
        return by_group.T - self.exponents_out

    @property
    def factors(self) -> np.ndarray:
        """Factors of the weight, of shape (inputs of a group, outputs): powers of two."""
        return np.exp2(self._exponents())

    @property
    def bias_factors(self) -> np.ndarray:
        """Factors of the bias, of shape (outputs,)."""
        return np.exp2(-self.exponents_out)

    def ranges_out(self) -> np.ndarray:
        """The largest magnitude of each output channel as it is now."""
        return (self.magnitudes * self.factors).max(0)

    def ranges_in(self) -> np.ndarray:
        """The largest magnitude of each input channel as it is now."""
        inputs, outputs = self.magnitudes.shape
        now = (self.magnitudes * self.factors).reshape(inputs, self.groups, outputs // self.groups)
        return now.max(2).T.reshape(-1)


def equalize(weights: Mapping[int, ScaledWeight], pairs: Sequence[tuple[int, int]]) -> None:
    """Choose the scales: w1[c]/s[c] and w2[c]·s[c], with s = sqrt(max|w1[c]|/max|w2[c]|) rounded to a power of two.

    Because s is a power of two, the model computes in float what it did before, to the bit.

    Args:
        weights: By position of the layer; their exponents change.
        pairs: The result of ``equalizable``.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.

    Examples:
        >>> one, other = ScaledWeight(np.array([[16.0, 1.0]])), ScaledWeight(np.array([[1.0], [1.0]]))
        >>> equalize({0: one, 1: other}, [(0, 1)])
        >>> one.factors.tolist(), other.factors.tolist()
        ([[0.25, 1.0]], [[4.0], [1.0]])
    """
    for _ in range(_SWEEPS):
        settled = True
        for first, second in pairs:
            before, after = weights[first].ranges_out(), weights[second].ranges_in()
            both = (before > 0) & (after > 0)
            ratio = np.where(both, before, 1.0) / np.where(both, after, 1.0)
            exponents = np.rint(np.log2(ratio) / 2)
            exponents = np.clip(weights[first].exponents_out + exponents, -_LARGEST, _LARGEST)
            settled = settled and np.array_equal(exponents, weights[first].exponents_out)
            weights[first].exponents_out = exponents
            weights[second].exponents_in = exponents
        if settled:
            return
