"""The check that a prepared model, with its quantizers bypassed, computes the same as the float model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from trainable_quantizers_core.deploy.verification import TensorDifference, Verification
from trainable_quantizers_core.errors import QuantizerError, invalid
from trainable_quantizers_core.quantizer.range_quantizer import RangeQuantizer

_SHARE = 0.01  # of the largest value: sums in another order, and folded norms, differ by less


@contextmanager
def quantizers_set_aside(quantizers: Iterable[RangeQuantizer], wrappers: Iterable[Any]) -> Iterator[None]:
    """Bypass quantizers inside the context: tensors, weights and biases stay as they are."""
    disabled = [each for each in quantizers if each.enabled]
    grids = [(wrapper, wrapper.accumulator) for wrapper in wrappers]
    try:
        for quantizer in disabled:
            quantizer.enabled = False
        for wrapper, _ in grids:
            wrapper.accumulator = None
        yield
    finally:
        for quantizer in disabled:
            quantizer.enabled = True
        for wrapper, grid in grids:
            wrapper.accumulator = grid


def check_computation(
    alone: Callable[[], Verification], prepared: Callable[[bool], Verification], folded: Collection[str]
) -> None:
    """Check that a prepared model computes the same; an error names the first layer that does not.

    Args:
        alone: Compares two runs of the float model: if it draws random numbers or keeps state, the check is void.
        prepared: Compares it with the prepared model, whose quantizers are bypassed; with the layers, if asked to.
        folded: Names of layers that took in a batch norm, whose outputs differ.

    Raises:
        QuantizerError: outputs differ by more than 1 % of the largest value.
    """
    try:
        wrong = next((each for each in prepared(False).outputs if each.exceeds(_SHARE)), None)
        excused = wrong is not None and any(each.exceeds(_SHARE) for each in alone().outputs)
    except QuantizerError:  # outputs whose sizes depend on values, such as boxes
        return
    if wrong is not None and not excused:
        first = next((each for each in prepared(True).layers if each.exceeds(_SHARE) and each.name not in folded), None)
        where = f"; it begins in {first.name}, {_in_words(first)}" if first else ""
        advice = "exclude that layer by a rule with skip = true, or pass check=False to train it as it is"
        rule = "one that computes the same when it is prepared, quantizers bypassed"
        raise invalid("prepare", "model", rule, f"{wrong.name} {_in_words(wrong)}{where}", advice)


def _in_words(difference: TensorDifference) -> str:
    return f"off by {difference.largest:.3g} of {difference.scale:.3g}"
