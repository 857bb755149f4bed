import pytest
import tensorflow as tf
from trainable_quantizers_keras import KerasLinearAnnealingScheduler


@pytest.mark.parametrize(("t", "value"), [(0, 20.0), (15, 11.0), (tf.constant(15), 11.0), (99, 2.0)])
def test_moves_linearly_and_stays(t, value):
    assert KerasLinearAnnealingScheduler(10, 20, 20.0, 2.0)(t) == value
