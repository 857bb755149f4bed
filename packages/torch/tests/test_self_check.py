"""A copy that computes something else than the model does not leave prepare."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn

RECIPE = tq.Recipe.preset("power_of_two_8bit")
IMAGES = torch.randn(4, 3, 8, 8)


class AsksForTheClass(nn.Module):
    """Computes something else once its convolution is wrapped."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(x if type(self.second) is nn.Conv2d else 2 * x)


def test_a_copy_that_computes_something_else_is_refused():
    with pytest.raises(
        tq.QuantizerError, match=r"quantizers bypassed, got 'output off by .*; it begins in second, off by"
    ):
        tq.prepare(AsksForTheClass(), RECIPE, [IMAGES], verbose=False)


def test_the_check_can_be_left_out():
    assert tq.prepare(AsksForTheClass(), RECIPE, [IMAGES], check=False, verbose=False)(IMAGES).shape == (4, 2, 4, 4)


def test_random_numbers_are_no_difference():
    class Samples(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.layer(x) + torch.randn(4, 4, 6, 6)

    assert tq.prepare(Samples(), RECIPE, [IMAGES], verbose=False)(IMAGES).shape == (4, 4, 6, 6)


@pytest.mark.parametrize("part, kind", [(0, "hook"), (0, "pre hook"), (1, "hook"), (1, "pre hook"), (3, "pre hook")])
def test_hooks_that_compute_go_on_computing(part, kind):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    if kind == "hook":
        network[part].register_forward_hook(lambda module, inputs, output: 0.5 * output + 1)
    else:
        network[part].register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0] + 1,))
    model = tq.prepare(network, RECIPE, [IMAGES], fold_batch_norm=True, verbose=False).eval()
    assert (model(IMAGES) - network(IMAGES)).abs().max() < 0.1 * network(IMAGES).abs().max()
    assert torch.equal(tq.convert(model)(IMAGES), model(IMAGES))
