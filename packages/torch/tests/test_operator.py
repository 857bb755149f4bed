"""The operations as the tools around PyTorch see them: export, compile, checkpoints, and what a backward keeps."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch_builders import ALONE, network
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.kernels.limits import limited

OPERATORS = torch.ops.trainable_quantizers
THRESHOLD = torch.tensor([0.7, 1.0, 3.0])
CALLS = {
    "fake_quantize": (torch.randn(4, 3), torch.tensor(-2.0), torch.tensor(1.5), 3, True, None, True, 0.5, 0.3),
    "fake_quantize per channel": (torch.randn(4, 3), -THRESHOLD, THRESHOLD, 3, True, 1, True, 0.5, 0.0),
    "symmetric_range": (THRESHOLD, 4, True, 2.0**-16, True, False),
    "symmetric_range of logarithms": (THRESHOLD, 4, True, 2.0**-16, False, True),
    "uniform_range": (-THRESHOLD, THRESHOLD, 4, False, 2.0**-16),
}


@pytest.mark.parametrize("call", CALLS)
def test_torch_accepts_the_registration(call):
    arguments = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in CALLS[call]]
    torch.library.opcheck(getattr(OPERATORS, call.split()[0]).default, tuple(arguments))


def gradients(model, module, x):
    model.zero_grad()
    module(x).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_computes_and_learns_the_same(strict):
    model, x = network(), torch.randn(2, 2, 8, 8)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict)
    found, wanted = (gradients(model, module, x) for module in (program.module(), model))
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name
    more = torch.randn(5, 2, 8, 8)
    assert torch.equal(program.module()(more), model(more))


def test_a_saved_program_runs_in_another_process(tmp_path):
    model, x = network(), torch.randn(2, 2, 8, 8)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    torch.save((x, model(x).detach()), tmp_path / "pair.pt")
    code = (
        f"{ALONE}import torch, trainable_quantizers_torch\n"
        "x, y = torch.load(sys.argv[2])\n"
        "assert torch.equal(torch.export.load(sys.argv[1]).module()(x), y)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.pt2", tmp_path / "pair.pt"], check=True)


@pytest.mark.long
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_model_compiles_without_a_graph_break(dynamic):
    torch.compiler.reset()
    model, x = network(), torch.randn(3, 2, 8, 8)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    found, wanted = gradients(model, compiled, x), gradients(model, model, x)
    torch.testing.assert_close(compiled(x), model(x))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "ways",
    [{"small": 100}, {"small": 0, "block": 8, "numba": False}, {"small": 0, "thread": 8, "row": 0, "numba": True}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_backward_keeps_the_input_and_nothing_else_of_its_size(ways, dtype):
    kept = []
    x = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    ends = [torch.tensor(end, requires_grad=True) for end in (-2.0, 1.5)]
    with limited(**ways), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fake_quantize(x, *ends, Grid(3, True), None, True)
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() > 1] == [x.data_ptr()]


def test_recomputing_in_the_backward_gives_the_same_gradients():
    model, x = network(), torch.randn(2, 2, 8, 8)
    wanted = gradients(model, model, x)
    found = gradients(model, lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False), x)
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name


def test_tensors_that_stand_for_values_are_computed_with():
    model, x = network(), torch.randn(2, 2, 8, 8)
    wanted = model(x)
    assert torch.equal(make_fx(model)(x)(x), wanted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == wanted.shape
    on_meta = network().to("meta")
    on_meta(x.to("meta")).sum().backward()
    assert all(parameter.grad.is_meta for parameter in on_meta.parameters())


def test_threads_of_a_parent_are_not_waited_for_after_a_fork():
    code = (
        f"{ALONE}import os, torch\n"
        "from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize\n"
        "from trainable_quantizers_core.quantizer.grid import Grid\n"
        "torch.set_num_threads(2)\n"
        "x, ends = torch.randn(2**18), [torch.tensor(-2.0), torch.tensor(1.5)]\n"
        "y = fake_quantize(x, *ends, Grid(3, True))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(2)\n"
        "    os._exit(0 if torch.equal(fake_quantize(x, *ends, Grid(3, True)), y) else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
