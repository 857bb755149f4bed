"""Batch norms that are folded into the layers before them."""

import copy

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS, call

WEIGHTS_OF_16_BITS = tq.Recipe(tq.WeightsScheme(num_bits=16, method="symmetric", calibration="min_max"))


def folded(name):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias)
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    model = tq.prepare(network, WEIGHTS_OF_16_BITS, [inputs], verbose=False, fold_batch_norm=True)
    return network, model, inputs, {row.layer: row.reason for row in tq.summary(model).rows}


@pytest.mark.parametrize("name", ["residual", "inverted", "reads attributes"])
def test_folding_changes_nothing_in_evaluation(name):
    network, model, inputs, _ = folded(name)
    torch.testing.assert_close(call(model.eval(), inputs), call(network.eval(), inputs), rtol=1e-3, atol=2e-3)
    assert torch.equal(call(tq.convert(model), inputs), call(model, inputs))


def test_all_that_follow_a_layer_are_folded():
    for name in ("residual", "inverted"):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(name)[1].modules())
    assert folded("inverted")[3]["expand.1"] == "folded into expand.0"


def test_the_rest_is_said():
    _, model, _, reasons = folded("reads attributes")
    assert reasons["body.1"] == "folded into body.0"
    assert isinstance(model.body[1], nn.Identity)
    assert reasons["alone.1"].endswith("not folded: it is not the only reader of a convolution or linear layer")


def test_a_layer_with_another_reader_is_not_folded():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return x + self.norm(x)

    model = tq.prepare(Forked(), WEIGHTS_OF_16_BITS, [torch.randn(2, 3, 8, 8)], verbose=False, fold_batch_norm=True)
    assert isinstance(model.norm, nn.BatchNorm2d)
    (reason,) = [row.reason for row in tq.summary(model).rows if row.layer == "norm"]
    assert "not folded" in reason


@pytest.mark.parametrize("fold", [True, False])
def test_norms_of_several_processes_are_norms(fold):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.randn(4, 3, 8, 8)
    several = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    model, other = (
        tq.prepare(each, WEIGHTS_OF_16_BITS, [x], verbose=False, fold_batch_norm=fold).eval()
        for each in (network, several)
    )
    assert torch.equal(other(x), model(x))
    assert torch.equal(tq.convert(other)(x), model(x))
