import pytest
import torch
from trainable_quantizers_torch import PytorchLinearAnnealingScheduler


@pytest.mark.parametrize(("t", "value"), [(0, 20.0), (15, 11.0), (torch.tensor(15), 11.0), (99, 2.0)])
def test_moves_linearly_and_stays(t, value):
    assert PytorchLinearAnnealingScheduler(10, 20, 20.0, 2.0)(t) == torch.tensor(value)
