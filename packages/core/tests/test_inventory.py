"""The values of a tensor that a report measures."""

import numpy as np
import pytest
from trainable_quantizers_core.inventory import Sample


def sampled(batches, size=2**12):
    sample = Sample(size)
    for batch in batches:
        sample.add(batch)
    return sample.values


def test_few_values_are_all_kept_in_order():
    batches = np.arange(40, dtype=np.float32).reshape(4, 10)
    np.testing.assert_array_equal(sampled(batches), batches.ravel())


@pytest.mark.parametrize("channels", [2, 3, 64, 100, 512])
def test_every_channel_has_its_share(channels):
    """Whatever the stride: channels last come back after as many values."""
    batch = np.broadcast_to(np.arange(channels, dtype=np.float32), (2**15 // channels, channels))
    values = sampled([batch] * 8)
    counts = np.bincount(values.astype(int), minlength=channels)
    assert 2**11 <= values.size <= 2**12
    assert counts.min() > 0
    assert abs(counts / values.size - 1 / channels).max() < 5 * (1 / channels / values.size) ** 0.5


def test_every_batch_has_its_share():
    values = sampled(np.repeat(np.arange(16, dtype=np.float32)[:, None], 2**10, axis=1))
    counts = np.bincount(values.astype(int), minlength=16)
    assert abs(counts - values.size / 16).max() <= 3


def test_the_same_batches_give_the_same_sample():
    batches = np.random.default_rng(0).standard_normal((5, 3001)).astype(np.float32)
    np.testing.assert_array_equal(sampled(batches), sampled(batches))


@pytest.mark.parametrize("shape", [(0,), (), (1,), (7, 1)])
def test_batches_of_few_values_are_no_trouble(shape):
    values = sampled([np.zeros(2**14, np.float32), np.ones(shape, np.float32)])
    assert values.size <= 2**12
