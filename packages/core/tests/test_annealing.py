import pytest
from trainable_quantizers_core import BaseLinearAnnealingScheduler, QuantizerError


class Scheduler(BaseLinearAnnealingScheduler):
    def _compute_factor(self, t):
        return min(max((t - self.t_start) / (self.t_end - self.t_start), 0.0), 1.0)


@pytest.mark.parametrize(("t", "value"), [(0, 20.0), (10, 20.0), (15, 11.0), (20, 2.0), (99, 2.0)])
def test_moves_linearly_and_stays(t, value):
    assert Scheduler(t_start=10, t_end=20, initial_val=20.0, target_val=2.0)(t) == value


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5)])
def test_steps_in_disorder(start, end):
    with pytest.raises(QuantizerError, match=r"\(t_start, t_end\) must be 0 <= t_start < t_end, got"):
        Scheduler(start, end, 0.0, 1.0)


def test_the_base_class_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        BaseLinearAnnealingScheduler(0, 1, 0.0, 1.0)
