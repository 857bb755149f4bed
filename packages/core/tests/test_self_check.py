"""What the comparison of a prepared model with the float model makes of differences."""

import numpy as np
import pytest
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.deploy.self_check import check_computation
from trainable_quantizers_core.deploy.verification import Comparison

RIGHT, WRONG = np.float32([1, 2]), np.float32([1, 2.1])


def compared(output, *layers):
    comparison = Comparison()
    comparison.output("output", RIGHT, output)
    for index, layer in enumerate(layers):
        comparison.layer(f"layer {index}", RIGHT, layer)
    return comparison.result()


def test_the_first_layer_that_differs_is_named_and_those_with_a_folded_norm_are_not():
    with pytest.raises(QuantizerError, match=r"got 'output off by 0.1 of 2; it begins in layer 2, off by 0.1 of 2'"):
        check_computation(lambda: compared(RIGHT), lambda _: compared(WRONG, RIGHT, WRONG, WRONG), {"layer 1"})


@pytest.mark.parametrize(
    ("alone", "prepared"), [(RIGHT, RIGHT), (RIGHT, RIGHT * 1.005), (WRONG, WRONG), (RIGHT, RIGHT[:1])]
)
def test_the_same_and_what_cannot_be_compared_pass(alone, prepared):
    check_computation(lambda: compared(alone), lambda _: compared(prepared, WRONG), set())
