"""Channels that are scaled from one layer into the next: the same network, with weights that quantize better."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from trainable_quantizers_core.deploy.self_check import quantizers_set_aside
from trainable_quantizers_torch.inventory import quantizers_of

X = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
PER_TENSOR = tq.Recipe({"num_bits": 4, "granularity": "per_tensor"}, {"num_bits": 8})


def uneven():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8)]
    layers += [nn.LeakyReLU(), nn.Conv2d(16, 8, 1, groups=2), nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1)]
    layers += [nn.Flatten(), nn.Linear(64, 6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 3)]
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        network[1].running_var.copy_(torch.logspace(0, 3, 8, 2))
        scales = torch.logspace(-1, 1, 6, 8)
        network[10].weight.mul_(scales[:, None])
        network[10].bias.mul_(scales)
        network[13].weight.div_(scales)
    return network


def prepared(network, equalize):
    return tq.prepare(network, PER_TENSOR, [X], fold_batch_norm=True, equalize=equalize, verbose=False).eval()


@torch.no_grad()
def in_float(model):
    wrappers = [each for each in model.modules() if isinstance(each, tq.PytorchTrainableQuantizationWrapper)]
    with quantizers_set_aside([each.quantizer for each in quantizers_of(model)], wrappers):
        return model(X)


@torch.no_grad()
def error(model, network):
    return ((model(X) - network(X)).square().sum() / network(X).square().sum()).item()


def test_the_float_network_is_the_same_to_the_bit_and_quantizes_better():
    network = uneven()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    plain, equalized = prepared(network, False), prepared(network, True)
    assert torch.equal(in_float(equalized), in_float(plain))
    assert error(equalized, network) < 0.8 * error(plain, network)
    assert torch.equal(tq.convert(equalized)(X), equalized(X))
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


def test_pairs_are_layers_of_one_kind_with_nothing_bounded_between_them():
    rows = tq.summary(prepared(uneven(), True)).rows
    pairs = {row.layer: row.reason.partition("equalized with ")[2].partition(";")[0] for row in rows}
    found = {layer: other for layer, other in pairs.items() if other}
    assert found == {"0": "3", "3": "5", "5": "6", "10": "13"}


def test_ranges_of_a_pair_are_alike():
    equalized = prepared(uneven(), True)
    before, after = (equalized[index].layer.weight.detach().abs() for index in (10, 13))
    ratio = before.amax(1) / after.amax(0)
    assert ((ratio >= 0.5) & (ratio <= 2)).all()


READERS = {
    "sum": lambda self, y: y + self.other(y),
    "output": lambda self, y: (y, self.other(y)),
    "of its weight": lambda self, y: self.other(y) * self.one.weight.mean(),
    "of its bias": lambda self, y: self.other(y) + self.one.bias.sum(),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_layer_with_another_reader_stays(reader):
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return READERS[reader](self, self.one(x))

    network = Forked()
    with torch.no_grad():
        network.one.weight[0] *= 64
    model = tq.prepare(network, PER_TENSOR, [X], equalize=True, verbose=False)
    assert torch.equal(model.one.layer.weight, network.one.weight)
    assert not any("equalized" in row.reason for row in tq.summary(model).rows)
