"""Compilers and tracers see the quantizers, or say that they do not."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS


class Operators(nn.Module):
    """Python's operators on two tensors, and with numbers on either side."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        a, b = self.one(x), self.other(x).sigmoid()
        found = [a - b, a / (b + 0.5), 1.3 - a, 1.3 / (0.5 + b), 1.3**b, abs(-a) @ b.t() @ b]
        a -= b
        a *= b
        return torch.cat([*found, a], 1)


def test_operators_are_exported_with_their_quantizers():
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    model = tq.prepare(Operators(), tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [x], verbose=False).eval()
    with torch.no_grad():
        assert torch.equal(torch.export.export(model, (x,), strict=True).module()(x), model(x))


TRACERS = {
    "torch.fx": (
        torch.fx.symbolic_trace,
        "torch.fx does not trace quantizers of functions and operators: use torch.export",
    ),
    "torch.jit.script": (
        torch.jit.script,
        "torch.jit.script cannot compile a model that quantizes as it runs: use torch.jit",
    ),
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_tracers_that_see_no_quantizers_refuse_the_model(tracer):
    build, inputs = NETWORKS["residual"]
    model = tq.prepare(build(), tq.Recipe.preset("power_of_two_8bit"), [inputs], verbose=False)
    trace, text = TRACERS[tracer]
    for each in (model, tq.convert(model)):
        with pytest.raises(tq.QuantizerError, match=text):
            trace(each)


def test_a_converted_model_is_traced_with_its_quantizers_and_a_trainable_one_refused():
    torch.manual_seed(0)
    build, inputs = NETWORKS["residual"]
    model = tq.prepare(build().eval(), tq.Recipe.preset("power_of_two_8bit"), [inputs], verbose=False).eval()
    with pytest.raises(tq.QuantizerError, match="fix the thresholds of trainable quantizers at their current values"):
        torch.jit.trace(model, inputs)
    deployed = tq.convert(model)
    traced, others = torch.jit.trace(deployed, inputs), tuple(torch.cat([each, each]) * 2 for each in inputs)
    assert torch.equal(traced(*others), deployed(*others))
