"""Quantization parameters in groups of their own."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch_networks import NETWORKS
from trainable_quantizers_torch.inventory import quantizers_of


def prepared(name="residual"):
    build, inputs = NETWORKS[name]
    return tq.prepare(build(), tq.Recipe.preset("power_of_two_8bit"), [inputs], verbose=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_parameter_is_in_one_group(name):
    model = prepared(name)
    network, quantizers = (group["params"] for group in tq.parameter_groups(model))
    assert len(quantizers) == len(quantizers_of(model))
    assert sorted(map(id, [*network, *quantizers])) == sorted(map(id, model.parameters()))


def test_weight_decay_leaves_thresholds_alone():
    model = prepared()
    optimizer = torch.optim.SGD(tq.parameter_groups(model, weight_decay=0.5), lr=0.1)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == (name.endswith("threshold") or not before[name].any()), name


def test_frozen_weights_are_in_no_group():
    model = prepared()
    model.conv1.layer.weight.requires_grad_(False)
    network, _ = tq.parameter_groups(model)
    assert not any(parameter is model.conv1.layer.weight for parameter in network["params"])


def test_a_model_without_quantizers_is_refused():
    with pytest.raises(tq.QuantizerError, match="prepare it first"):
        tq.parameter_groups(torch.nn.Linear(2, 2))
