"""The toolkit's calls of configurations, in both of its orders, and its small functions."""

import pytest
from mct_quantizers import QuantizationMethod
from trainable_quantizers_core import QuantizerError, compat
from trainable_quantizers_core.compat import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)
from trainable_quantizers_core.constants import MIN_THRESHOLD

WEIGHTS = (TrainableQuantizerWeightsConfig, (QuantizationMethod.SYMMETRIC, 8, {"threshold": 2.0}, True, 3, True))
ACTIVATION = (TrainableQuantizerActivationConfig, (QuantizationMethod.UNIFORM, 8, {"threshold": 2.0}, True))
CANDIDATES = [TrainableQuantizerCandidateConfig(4, {"threshold": 1.0})]
CALLS = [  # what follows the common arguments; the candidates and the smallest threshold it means
    ((), None, MIN_THRESHOLD),
    ((None,), None, MIN_THRESHOLD),  # main: candidates
    ((CANDIDATES,), CANDIDATES, MIN_THRESHOLD),
    (([],), [], MIN_THRESHOLD),
    ((2**-8,), None, 2**-8),  # 2.6.1: min_threshold, candidates
    ((2**-8, None), None, 2**-8),
    ((2**-8, CANDIDATES), CANDIDATES, 2**-8),
    ((None, CANDIDATES), CANDIDATES, MIN_THRESHOLD),
]


@pytest.mark.parametrize(("config", "common"), [WEIGHTS, ACTIVATION], ids=["weights", "activation"])
@pytest.mark.parametrize(("rest", "candidates", "minimum"), CALLS)
def test_both_orders_of_the_arguments_mean_what_they_say(config, common, rest, candidates, minimum):
    made = config(*common, *rest)
    assert (made.min_threshold, getattr(made, f"{made.target}_bits_candidates")) == (minimum, candidates)
    assert config.from_json(made.to_json()) == made


@pytest.mark.parametrize(("config", "common"), [WEIGHTS, ACTIVATION], ids=["weights", "activation"])
def test_candidates_in_both_places_are_refused(config, common):
    with pytest.raises(QuantizerError, match="min_threshold must be a positive number"):
        config(*common, CANDIDATES, CANDIDATES)


@pytest.mark.parametrize(
    ("shape", "axis", "wanted"), [((3, 3, 2, 8), -1, [1, 1, 1, 8]), ((8, 2), 0, [8, 1]), ((8,), -1, [8])]
)
def test_thresholds_broadcast_along_the_axis_of_channels(shape, axis, wanted):
    assert compat.get_threshold_reshape_shape(shape, quant_axis=axis, quant_axis_dim=8) == wanted
    assert compat.channel_axis_of("here", wanted, shape) == axis % len(shape)


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(QuantizerError, match=r"quant_axis must be in -2..1, got 2; name the channel axis"):
        compat.get_threshold_reshape_shape((8, 2), 2, 8)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_one_threshold_serves_all(shape):
    assert compat.channel_axis_of("here", shape, (None, 4)) is None


@pytest.mark.parametrize("shape", [(2, 4), (3,), (2, 1, 1)])
def test_parameters_that_do_not_broadcast_along_one_axis_are_refused(shape):
    with pytest.raises(QuantizerError, match="here: shape of the parameters must be one number, or one for each index"):
        compat.channel_axis_of("here", shape, (2, 4))


def test_levels_that_are_not_those_of_the_bits_are_refused():
    with pytest.raises(QuantizerError, match=r"\(min_int, max_int\) must be \(-8, 7\), the levels of 4 bits"):
        compat.full_grid("here", 4, True, -7, 7)


def test_batches_are_counted_anew_each_time():
    batches = [1, 2]
    assert compat.get_total_grad_steps(lambda: iter(batches)) == 2
    batches.append(3)
    assert compat.get_total_grad_steps(lambda: iter(batches)) == 3
