"""A batch norm and the layer before it as one layer."""

import numpy as np
import pytest
from trainable_quantizers_core.errors import QuantizerError
from trainable_quantizers_core.graph.folding import check_folding, factor_of, folded_bias, inverse_of

MEAN, VARIANCE, GAMMA, BETA, BIAS = np.random.default_rng(0).uniform(0.5, 2, (5, 4)) * [1, -1, 1, 1]
VARIANCE = abs(VARIANCE)


@pytest.mark.parametrize("gamma", [None, GAMMA])
@pytest.mark.parametrize("beta", [None, BETA])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_the_folded_layer_gives_what_the_norm_gives(gamma, beta, bias):
    sums = np.random.default_rng(1).normal(size=(3, 4))
    normalized = (sums + (0 if bias is None else bias) - MEAN) / np.sqrt(VARIANCE + 1e-3)
    expected = normalized * (1 if gamma is None else gamma) + (0 if beta is None else beta)
    factor = factor_of(VARIANCE, 1e-3, gamma)
    np.testing.assert_allclose(sums * factor + folded_bias(factor, MEAN, beta, bias), expected, rtol=1e-12)


def test_no_channel_is_divided_by_almost_nothing():
    assert inverse_of(np.array([2.0**-39, -(2.0**-41), 0.0])).tolist() == [2.0**39, 0.0, 0.0]


@pytest.mark.parametrize("given", ["conversion", None, 1, 2])
def test_what_folding_cannot_be_is_refused_with_what_it_can_be(given):
    with pytest.raises(QuantizerError, match="False, True or 'at_conversion'"):
        check_folding(given)


def test_weights_are_equalized_after_folding_only():
    check_folding(True, equalizes=True)
    with pytest.raises(QuantizerError, match="use fold_batch_norm=True"):
        check_folding("at_conversion", equalizes=True)
