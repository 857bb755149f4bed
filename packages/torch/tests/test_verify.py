"""Comparing a trained model with a deployed one."""

import re

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS, call

RECIPE = tq.Recipe(tq.WeightsScheme(num_bits=4), tq.ActivationsScheme(num_bits=4))


def trained(name):
    build, inputs = NETWORKS[name]
    return tq.prepare(build(), RECIPE, [inputs], verbose=False), [inputs]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_model_is_identical(name):
    model, data = trained(name)
    found = tq.verify(model, tq.convert(model), data)
    assert found.identical
    assert found.elements == call(model.eval(), data[0]).numel()
    assert len(found.layers) > 2
    assert not any(layer.differing for layer in found.layers)


def test_a_difference_is_found_where_it_begins():
    model, data = trained("residual")
    deployed = tq.convert(model)
    with torch.no_grad():
        deployed.conv2.layer.bias += 0.5
    found = tq.verify(model, deployed, data)
    assert not found.identical
    assert found.first_difference.name == "conv2"
    assert found.first_difference.largest == pytest.approx(0.5, rel=1e-3)


def test_a_difference_of_one_step_in_one_activation_is_found():
    model, data = trained("inverted")
    deployed = tq.convert(model)
    holder = next(m for m in deployed.modules() if type(m).__name__ == "PytorchActivationQuantizationHolder")
    holder.activation_holder_quantizer.scales = holder.activation_holder_quantizer.scales * 2
    assert tq.verify(model, deployed, data).first_difference.name.endswith("activation_quantizers.x")


def test_functions_are_compared_by_their_outputs():
    model, data = trained("shared")
    deployed = tq.convert(model).eval()
    found = tq.verify(model, lambda *inputs: deployed(*inputs).detach().numpy(), data)
    assert found.identical
    assert not found.layers


def test_outputs_have_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            y = self.fc(x)
            return {"logits": y, "pair": (y, y * 2)}

    model = tq.prepare(Two(), RECIPE, torch.randn(3, 4), verbose=False)
    found = tq.verify(model, tq.convert(model), torch.randn(3, 4))
    assert [output.name for output in found.outputs] == ["output['logits']", "output['pair'][0]", "output['pair'][1]"]


def test_modes_and_hooks_stay_as_they_were():
    model, data = trained("residual")
    deployed = tq.convert(model)
    deployed.eval()
    tq.verify(model, deployed, data)
    assert model.training
    assert not deployed.training
    assert not any(module._forward_hooks for module in (*model.modules(), *deployed.modules()))


MISTAKES = {
    "no data": (lambda m: tq.verify(m, m, []), "at least one batch"),
    "other data": (lambda m: tq.verify(m, m, torch.ones(2, 2)), "batches that the model takes"),
    "no model": (lambda m: tq.verify(m, 3, torch.ones(1, 3, 8, 8)), "a module or a function, got 3"),
    "nothing trained": (
        lambda m: tq.verify(lambda x: x, m, torch.ones(1, 3, 8, 8)),
        "trained must be a module, got <function",
    ),
    "other inputs": (
        lambda m: tq.verify(m, lambda x: x @ x[:1, :2], torch.ones(1, 3, 8, 8)),
        "takes the batches of the trained model",
    ),
    "other outputs": (lambda m: tq.verify(m, lambda x: x, torch.ones(1, 3, 8, 8)), "of shape (1, 5), got (1, 3, 8, 8)"),
    "more outputs": (lambda m: tq.verify(m, lambda x: (x, x), torch.ones(1, 3, 8, 8)), "must be 1, got 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function(trained("residual")[0])


def test_shared_layers_are_compared_at_each_call():
    torch.manual_seed(0)
    build, inputs = NETWORKS["shared"]
    model = tq.prepare(build(), RECIPE, [inputs], verbose=False)
    layers = {layer.name: layer for layer in tq.verify(model, tq.convert(model), [inputs]).layers}
    assert layers["twice"].elements == 2 * layers["once"].elements


def test_a_forward_may_change_its_input():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x.mul_(2))

    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    model = tq.prepare(Changing(), RECIPE, [x], verbose=False)
    assert tq.verify(model, tq.convert(model), [x]).identical
    assert torch.equal(x, kept)
