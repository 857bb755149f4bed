"""What ``torch.utils.checkpoint`` computes again is quantized as it was the first time."""

from functools import cache
from typing import ClassVar

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_networks import NETWORKS
from trainable_quantizers_torch.graph.recomputed import open_parts

RECIPE = tq.Recipe({"num_bits": 4}, {"num_bits": 4})


class Recomputing(nn.Module):
    """Has parts of its forward computed again: modules, methods and functions, called once or several times."""

    PARTS: ClassVar = {
        "a module": lambda self, x, again: again(self.body, x),
        "a module of several calls": lambda self, x, again: again(self.body, again(self.body, x) * 2),
        "a method": lambda self, x, again: again(self.block, x),
        "a method of several calls": lambda self, x, again: again(self.block, again(self.block, x).tanh()).tanh(),
        "a function": lambda self, x, again: again(lambda x: torch.tanh(self.body(x.tanh())) + x, x),
        "all of these": lambda self, x, again: again(self.block, again(self.body, again(self.body, x))),
        "a part of a part": lambda self, x, again: again(lambda x: again(self.block, x), x).sigmoid(),
    }

    def __init__(self, part, **options):
        super().__init__()
        self.body, self.linear = nn.Sequential(nn.Linear(4, 4), nn.SiLU()), nn.Linear(4, 4)
        self.part, self.options = part, options

    def block(self, x):
        return torch.sigmoid(self.linear(torch.tanh(x * 2))) + x

    def forward(self, x):
        return self.PARTS[self.part](self, torch.tanh(x), self.again)

    def again(self, function, x):
        return checkpoint(function, x, **self.options) if self.options else function(x)


def results(model, x):
    """The output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    output = model(x)
    output.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    found = [output, x.grad, *gradients]
    model.zero_grad()
    return found


@cache
def without_recomputation(part):
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    model = tq.prepare(Recomputing(part), RECIPE, [x], verbose=False)
    return model, x, results(model, x)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("part", Recomputing.PARTS)
def test_a_part_that_is_computed_again_is_quantized_as_before(part, reentrant):
    model, x, wanted = without_recomputation(part)
    model.options = {"use_reentrant": reentrant}
    found = results(model, x)
    model.options = {}
    assert all(map(torch.equal, found, wanted))


def test_parts_that_are_computed_again_compile_whole():
    model, x, wanted = without_recomputation("all of these")
    model.options = {"use_reentrant": False}
    torch.compiler.reset()
    found = results(torch.compile(model, fullgraph=True, backend="aot_eager"), x)
    model.options = {}
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_whole_model_can_be_computed_again(reentrant):
    torch.manual_seed(0)
    build, (x,) = NETWORKS["stochastic"]
    model = tq.prepare(build(), RECIPE, [x], verbose=False).eval()
    wanted = results(model, x)
    x = x.clone().requires_grad_()
    output = checkpoint(model, x, use_reentrant=reentrant)
    output.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(map(torch.equal, [output, x.grad, *gradients], wanted))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_pytorch_keeps_the_function_that_it_computes_again_where_it_is_looked_for(use_reentrant):
    found = []

    def part(x):
        found.extend(open_parts(whole.__code__))
        return x * 2

    def whole(x):
        return checkpoint(part, x, use_reentrant=use_reentrant)

    whole(torch.ones(2, requires_grad=True))
    assert [name for _, name in found] == ["run_function" if use_reentrant else "recompute_fn"]
    assert all(callable(getattr(owner, name)) for owner, name in found)
