"""The quantizer that does most harm comes first, and the model stays as it is."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))


def prepared():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    coarse = tq.LayerRule(name="2", weights={"num_bits": 2})
    recipe = tq.Recipe(tq.WeightsScheme(num_bits=8), tq.ActivationsScheme(num_bits=8), rules=[coarse])
    return network, tq.prepare(network, recipe, [X], verbose=False)


def test_the_quantizer_with_the_fewest_bits_costs_most():
    network, model = prepared()
    before = model(X)
    found = tq.sensitivity(model, [X])
    assert (found.quantizers[0].layer, found.quantizers[0].attribute) == ("2", "weight")
    assert len(found.quantizers) == 3 + 4
    assert torch.equal(model(X), before)
    with torch.no_grad():
        expected = ((model(X) - network(X)).double() ** 2).sum() / (network(X).double() ** 2).sum()
    assert found.error == pytest.approx(expected.item(), rel=0.05)  # biases of the copy are corrected
    assert tq.report(model, [X], sensitivity=found).sensitivity is found


def test_one_batch_or_many_are_the_same():
    _, model = prepared()
    whole, parts = tq.sensitivity(model, [X]), tq.sensitivity(model, X.split(8))
    assert [row.layer for row in whole.quantizers] == [row.layer for row in parts.quantizers]
    assert whole.error == pytest.approx(parts.error)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), 5])
def test_a_model_without_quantizers_is_refused(model):
    with pytest.raises(tq.QuantizerError, match="sensitivity: model must be one that holds trainable quantizers"):
        tq.sensitivity(model, [X])
