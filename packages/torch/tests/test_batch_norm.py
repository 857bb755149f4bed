"""Statistics of batch norms are those of the quantized network, and nothing else changes."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))


def prepared():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return tq.prepare(network, tq.Recipe({"num_bits": 2}, {"num_bits": 4}), [X], verbose=False)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_those_of_the_quantized_layer(training):
    model = prepared().train(training)
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert tq.reestimate_batch_norm(model, X.split(16)) is model
    assert len(seen) == 3
    torch.testing.assert_close(model[1].running_mean, torch.stack([each.mean(0) for each in seen]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([each.var(0) for each in seen]).mean(0))
    assert model[1].momentum == 0.1
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("1.running")}
    assert all(torch.equal(value, before[name]) for name, value in others.items() if "tracked" not in name)
    assert torch.equal(tq.convert(model.eval())(X), model(X))


def test_a_batch_that_does_not_fit_leaves_momentum_and_modes():
    model = prepared()
    with pytest.raises(tq.QuantizerError, match="reestimate_batch_norm: data must be batches that the model takes"):
        tq.reestimate_batch_norm(model, [X[:, :3]])
    assert model[1].momentum == 0.1


@pytest.mark.parametrize("data", [[], X.split(16)])
def test_without_norms_or_data_it_is_refused(data):
    model = prepared() if not data else nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(tq.QuantizerError, match=r"reestimate_batch_norm: (data|model) must be"):
        tq.reestimate_batch_norm(model, data)
