"""Comparing two models batch by batch."""

import numpy as np
import pytest
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.deploy.verification import Comparison, TensorDifference


def compared(*batches):
    comparison = Comparison()
    for one, other in batches:
        comparison.output("y", one, other)
    return comparison.result()


PAIRS = {
    "equal": ([1.0, 2.0], [1.0, 2.0], 0, 0.0),
    "nan twice": ([np.nan], [np.nan], 0, 0.0),
    "nan once": ([np.nan, 1.0], [0.0, 1.0], 1, np.inf),
    "infinities": ([np.inf, np.inf], [np.inf, -np.inf], 1, np.inf),
    "zeros of both signs": ([0.0], [-0.0], 0, 0.0),
    "one ulp": ([1.0], [np.nextafter(np.float32(1), np.float32(2))], 1, 2.0**-23),
    "empty": ([], [], 0, 0.0),
    "integers": ([3, 4], [3, 6], 1, 2.0),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_counts_as_a_difference(pair):
    one, other, differing, largest = PAIRS[pair]
    found = compared((one, other))
    assert (found.differing, found.largest, found.identical) == (differing, largest, not differing)


def test_batches_add_up():
    found = compared(([1.0, 2.0], [1.0, 2.5]), ([3.0], [3.25]))
    assert found.outputs == (TensorDifference("y", 3, 2, 0.5),)


def test_the_first_layer_that_differs_is_named():
    comparison = Comparison()
    for layer, other in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        comparison.layer(layer, [1.0], [other])
    comparison.output("y", [1.0], [3.0])
    assert comparison.result().first_difference.name == "b"
    assert "begins in b" in str(comparison.result())


def test_a_difference_can_be_an_error():
    found = compared(([1.0], [1.5]))
    found.raise_if_different(0.5)
    with pytest.raises(QuantizerError, match=r"verify: 1 of 1 output values differ, by up to 0\.5; no layer"):
        found.raise_if_different()


def test_mistakes_are_explained():
    with pytest.raises(QuantizerError, match=r"y of the deployed model must be of shape \(1,\), got \(2,\)"):
        compared(([1.0], [1.0, 2.0]))
    with pytest.raises(QuantizerError, match="at least one batch"):
        Comparison().result()
