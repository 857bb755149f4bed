"""The comparison of a deployed model with the trained one, and the first layer that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from trainable_quantizers_core.errors import QuantizerError, invalid


@dataclass(frozen=True)
class TensorDifference:
    """How two models differ in one tensor, over all batches.

    Args:
        name: Name of the layer it comes from, or of the output.
        elements: Number of values that were compared.
        differing: How many of them differ in value; NaN equals NaN, and -0 equals 0.
        largest: Largest absolute difference; infinite where only one is NaN, or both are infinite and differ.
        scale: Largest magnitude of a finite value of the trained model.

    Examples:
        >>> found = TensorDifference("head", elements=4, differing=1, largest=0.25, scale=8.0)
        >>> print(found)
        1 of 4 differ, by up to 0.25
        >>> found.exceeds(0.01)
        True
    """

    name: str
    elements: int
    differing: int
    largest: float
    scale: float = field(default=0.0, compare=False)

    def exceeds(self, share: float) -> bool:
        """Whether the largest difference is more than a share of the largest magnitude."""
        return self.largest > share * self.scale

    def __str__(self) -> str:
        return f"{self.differing} of {self.elements} differ, by up to {self.largest:.3g}"


@dataclass(frozen=True)
class Verification:
    """The comparison of a trained and a deployed model; ``print`` it.

    Args:
        outputs: The outputs of the models.
        layers: Layers that both have, in order of execution; or the operations of a file, if ``alone``.
        causes: Possible causes in the network if outputs differ, and no such layer does or the other model is an
            integer program.
        alone: Whether each layer was compared on what the deployed model gave it, so that differences before it do not
            count.

    Examples:
        >>> fine, off = TensorDifference("conv", 8, 0, 0.0), TensorDifference("head", 4, 1, 0.25)
        >>> found = Verification((off,), (fine, off))
        >>> found.identical, found.first_difference.name
        (False, 'head')
        >>> print(found)
        1 of 4 output values differ, by up to 0.25; it begins in head, where 1 of 4 differ, by up to 0.25.
    """

    outputs: tuple[TensorDifference, ...]
    layers: tuple[TensorDifference, ...] = ()
    causes: tuple[str, ...] = ()
    alone: bool = False

    @property
    def elements(self) -> int:
        """Number of output values that were compared."""
        return sum(output.elements for output in self.outputs)

    @property
    def differing(self) -> int:
        """How many output values differ."""
        return sum(output.differing for output in self.outputs)

    @property
    def largest(self) -> float:
        """Largest absolute difference of an output value."""
        return max((output.largest for output in self.outputs), default=0.0)

    @property
    def identical(self) -> bool:
        """Whether all output values are equal."""
        return not self.differing

    @property
    def different(self) -> tuple[TensorDifference, ...]:
        """The layers whose outputs differ."""
        return tuple(layer for layer in self.layers if layer.differing)

    @property
    def first_difference(self) -> TensorDifference | None:
        """The first layer whose output differs; None if none does."""
        return next(iter(self.different), None)

    def raise_if_different(self, tolerance: float = 0.0) -> None:
        """Raise an error with the text that ``print`` shows if an output differs.

        Raises:
            QuantizerError: an output value differs by more than ``tolerance``.
        """
        if self.largest > tolerance:
            raise QuantizerError(f"verify: {self}")

    def __str__(self) -> str:
        text = f"{self.differing} of {self.elements} output values differ, by up to {self.largest:.3g}"
        if self.identical:
            text = f"All {self.elements} output values are identical"
        if self.alone:
            return f"{text}. {self._operations()}"
        if self.identical:
            return f"{text}."
        first = self.first_difference
        reasons = f" Possible causes: {' '.join(self.causes)}" if self.causes else ""
        if first is None:
            return f"{text}; no layer that both models have differs.{reasons}"
        return f"{text}; it begins in {first.name}, where {first}.{reasons}"

    def _operations(self) -> str:
        """Which operations of a file differ on the same inputs."""
        if not self.layers:
            return "Its operations were not compared: the model has no integer program."
        found = "; ".join(f"{each.name}, where {each}" for each in self.different)
        count = f"{len(self.different) or 'none'} of its {len(self.layers)} operations"
        return f"By itself, {count} {'differs' if len(self.different) < 2 else 'differ'}{found and f': {found}'}."


class Comparison:
    """Gathers the differences of two models batch by batch, in constant memory.

    Examples:
        >>> comparison = Comparison()
        >>> comparison.layer("conv", np.float32([1, 2]), np.float32([1, 2]))
        >>> comparison.output("output", np.float32([1, np.nan]), np.float32([1.5, np.nan]))
        >>> comparison.result()  # doctest: +NORMALIZE_WHITESPACE
        Verification(outputs=(TensorDifference(name='output', elements=2, differing=1, largest=0.5, scale=1.0),),
                     layers=(TensorDifference(name='conv', elements=2, differing=0, largest=0.0, scale=2.0),),
                     causes=(), alone=False)
    """

    def __init__(self) -> None:
        self._outputs: dict[str, TensorDifference] = {}
        self._layers: dict[str, TensorDifference] = {}

    def output(self, name: str, trained: Any, deployed: Any) -> None:
        """Compare an output of a batch.

        Raises:
            QuantizerError: the shapes differ.
        """
        _add(self._outputs, name, trained, deployed)

    def outputs(self, trained: Sequence[tuple[str, Any]], deployed: Sequence[tuple[str, Any]]) -> None:
        """Compare the outputs of a batch, in their order, under the names that the trained model gives them.

        Raises:
            QuantizerError: their numbers or shapes differ.
        """
        if len(trained) != len(deployed):
            advice = "both must give the same outputs"
            raise invalid("verify", "number of outputs of the deployed model", str(len(trained)), len(deployed), advice)
        for (name, one), (_, other) in zip(trained, deployed, strict=True):
            self.output(name, one, other)

    def layer(self, name: str, trained: Any, deployed: Any) -> None:
        """Compare the output of a layer.

        Raises:
            QuantizerError: the shapes differ.
        """
        _add(self._layers, name, trained, deployed)

    def layers(self, trained: Mapping[str, Sequence[Any]], deployed: Mapping[str, Sequence[Any]]) -> None:
        """Compare the tensors that layers give in a batch, by name, of those that both models have.

        Tensors of other shapes or numbers are passed over: they are of other calls, or of a constant.
        """
        for name, tensors in trained.items():
            others = deployed.get(name, ())
            if len(tensors) == len(others):
                for one, other in zip(tensors, others, strict=True):
                    if tuple(one.shape) == tuple(other.shape):
                        self.layer(name, one, other)

    def result(self) -> Verification:
        """The result so far.

        Raises:
            QuantizerError: nothing was compared.
        """
        if not self._outputs:
            raise invalid("verify", "data", "at least one batch", [], "pass a list or a loader that is not used up")
        return Verification(tuple(self._outputs.values()), tuple(self._layers.values()))


def result_of(deployed: Any, call: Callable[..., Any], *args: Any) -> Any:
    """The result of ``call(*args)``, which runs the deployed model on a batch.

    Raises:
        QuantizerError: it raises something.
    """
    try:
        return call(*args)
    except Exception as error:  # anything that it raises
        rule, advice = "one that takes the batches of the trained model", f"it says: {type(error).__name__}: {error}"
        raise invalid("verify", "deployed", rule, type(deployed).__name__, advice) from error


def _add(table: dict[str, TensorDifference], name: str, trained: Any, deployed: Any) -> None:
    one, other = (np.asarray(array) for array in (trained, deployed))
    if one.shape != other.shape:
        advice = "the models must take the same batch"
        raise invalid("verify", f"{name} of the deployed model", f"of shape {one.shape}", other.shape, advice)
    one, other = one.astype(np.float64), other.astype(np.float64)
    differs = (one != other) & ~(np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        sizes = np.abs(one[differs] - other[differs])
    sizes[np.isnan(sizes)] = inf
    old = table.get(name, TensorDifference(name, 0, 0, 0.0))
    largest = max(old.largest, sizes.max(initial=0.0).item())
    scale = max(old.scale, np.abs(one[np.isfinite(one)]).max(initial=0.0).item())
    table[name] = TensorDifference(name, old.elements + one.size, old.differing + int(differs.sum()), largest, scale)
