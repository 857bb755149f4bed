"""The averages of PyTorch take in thresholds, and convert."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))


def start():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    recipe = tq.Recipe({"num_bits": 4, "schedule": {"ramp": 2}}, {"num_bits": 4})
    model = tq.prepare(network, recipe, [X], verbose=False)
    optimizer = torch.optim.Adam(tq.parameter_groups(model), 0.05)
    tq.follow_optimizer(model, optimizer)
    return model, optimizer


def test_averaged_weights_and_thresholds_are_deployed():
    model, optimizer = start()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    expected = {}
    for step in range(4):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
        for name, value in model.named_parameters():
            given = value.detach().clone()
            expected[name] = expected[name].lerp(given, 0.25) if step else given
    found = dict(averaged.module.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value)
    assert not torch.equal(found["0.weight_threshold"], model[0].weight_threshold)
    assert averaged.module.get_buffer("0.weight_step") == 4
    tq.reestimate_batch_norm(averaged.module, [X])
    assert not torch.equal(averaged.module[1].running_mean, model[1].running_mean)
    deployed = tq.convert(averaged.module.eval())
    assert torch.equal(deployed(X), averaged.module(X))
    assert torch.equal(averaged(X), deployed(X))


def integers_as_they_are(averaged, value, count):
    return averaged.lerp(value, 0.25) if value.is_floating_point() else value


@pytest.mark.parametrize("average", [None, integers_as_they_are])
def test_an_average_of_buffers_keeps_steps_if_it_copies_integers(average):
    model, optimizer = start()
    averaged = AveragedModel(model, avg_fn=average, use_buffers=True)
    for _ in range(4):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
    module = averaged.module.eval()
    if average is None:  # PyTorch averages every buffer, integers too: converting says so
        with pytest.warns(UserWarning, match="full"):
            tq.convert(module)
    else:
        assert module.get_buffer("0.weight_step") == 4
        assert module.get_buffer("1.num_batches_tracked") == model[1].num_batches_tracked
        assert torch.equal(tq.convert(module)(X), module(X))
