"""Several processes keep the quantization parameters of all replicas and shards equal."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_builders import ALONE

BEGIN = """
import torch
import trainable_quantizers_torch as tq
from torch import distributed, nn
from torch_builders import images, network
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
torch.manual_seed(0)
x, y = torch.randn(32, 8), torch.randn(32, 4)
float_network = nn.Sequential(nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
recipe = tq.Recipe({"num_bits": 4}, {"num_bits": 4})

def prepared(data, group=distributed.group.WORLD):
    return tq.prepare(float_network, recipe, [data], process_group=group, verbose=False)

def train(model, x, y, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    return model
"""
END = "distributed.destroy_process_group()"
PROGRAMS = {
    "replicas stay equal": """
model = nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for step in range(3):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images(step).chunk(2)[rank]), (torch.arange(6) % 5).chunk(2)[rank])
    loss.backward()
    optimizer.step()
state = {name: value.tolist() for name, value in model.module.state_dict().items() if "threshold" in name}
assert sum(value != 1.0 for values in state.values() for value in values) > 5
print(sorted(state.items()))
""",
    "replicas are one process": """
model = train(nn.parallel.DistributedDataParallel(prepared(x[rank::2])), x[rank::2], y[rank::2])
alone = train(prepared(x), x, y)
for one, other in zip(model.module.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
""",
    "distilled replicas are one process": """
def distilled(rank, world):
    student = prepared(x)
    distillation = tq.Distillation(float_network, student, ("3",))
    whole = nn.parallel.DistributedDataParallel(distillation) if world > 1 else distillation
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        outputs, loss = whole(x)
        (loss + ((outputs - y) ** 2)[rank::world].mean()).backward()
        optimizer.step()
    return student
for one, other in zip(distilled(rank, 2).parameters(), distilled(0, 1).parameters(), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
""",
    "data of each rank give one range": """
data = x.abs() if rank else x
model = prepared(data)
print([(name, value.tolist()) for name, value in model.state_dict().items()])
alone = prepared(torch.cat([x, x.abs()]))
for (name, one), other in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
    if "bias" not in name:
        assert torch.equal(one, other), name
""",
    "shards are one process": """
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

def sharded():
    model, mesh = prepared(x), init_device_mesh("cpu", (2,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)

model, alone = train(sharded(), x[rank::2], y[rank::2]), train(prepared(x), x, y)
for one, other in zip(model.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(one.full_tensor(), other, rtol=1e-4, atol=1e-5)
checkpoint.save(get_model_state_dict(model), checkpoint_id=f"{folder}/checkpoint")
fresh = sharded()
state = get_model_state_dict(fresh)
checkpoint.load(state, checkpoint_id=f"{folder}/checkpoint")
set_model_state_dict(fresh, state)
assert torch.equal(fresh(x), model(x))
state = alone.state_dict()  # of one process, which takes the state of two
checkpoint.load(state, checkpoint_id=f"{folder}/checkpoint", no_dist=True)
alone.load_state_dict(state)
torch.testing.assert_close(alone(x), model(x))
from trainable_quantizers_torch.inventory import quantizers_of
print([each.values["threshold"].tolist() for each in quantizers_of(model)])
""",
    "shards keep to schedules, and take parameters from files": """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
schedule = {"start": 1, "ramp": 1, "learn_from": 1, "learn_until": 3}
oscillations = {"momentum": 0.5, "freeze_above": 0.4}
weights = {"num_bits": 4, "schedule": schedule, "oscillations": oscillations}
recipe = tq.Recipe(weights, {"num_bits": 4, "schedule": schedule})
model, alone = prepared(x), prepared(x)
for layer in model:
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
for each, data in ((model, slice(rank, None, 2)), (alone, slice(None))):
    optimizer = torch.optim.SGD(each.parameters(), lr=1.0)
    tq.follow_optimizer(each, optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        ((each(x[data]) - y[data]) ** 2).mean().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= -1  # weights go back and forth
for one, other in zip(model.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(one.full_tensor(), other, rtol=1e-4, atol=1e-5)
for (name, one), other in zip(model.named_buffers(), alone.buffers(), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    print(name, one.tolist())
assert 0 < (model[4].weight_moves % 4 == 2).float().mean() < 1
tq.save_quantizers(alone, f"{folder}/{rank}.safetensors")
tq.load_quantizers(model, f"{folder}/{rank}.safetensors")
""",
    "other ways of several processes": """
from contextlib import nullcontext
from torch.distributed.fsdp import FullyShardedDataParallel
replicated = nn.parallel.DistributedDataParallel
halves = lambda values: values[rank::2]
alone = train(prepared(x), x, y)
sharded = lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu"))
for wrap in (sharded, lambda model: replicated(model, static_graph=True)):
    torch.testing.assert_close(train(wrap(prepared(x)), halves(x), halves(y))(x), alone(x), rtol=1e-4, atol=1e-5)

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x, both=True):
        return self.first(x) + self.second(x) if both else self.first(x)

float_network = Branches()
model = replicated(prepared(x), find_unused_parameters=True)
alone = prepared(x)
for each, inputs, targets in ((model, halves(x), halves(y)), (alone, x, y)):
    optimizer = torch.optim.SGD(each.parameters(), lr=0.05)
    for step in range(4):
        optimizer.zero_grad()
        parts = zip(inputs.chunk(2), targets.chunk(2))
        for number, (part, wanted) in enumerate(parts):  # gradients of the first wait for the second
            with each.no_sync() if each is model and not number else nullcontext():
                ((each(part, step % 2 == 0) - wanted) ** 2).mean().backward()
        optimizer.step()
for one, other in zip(model.module.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
""",
}


def test_two_processes(tmp_path):
    """The programs, one after the other in the same pair; what the pair printed last names the one that failed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    program = ALONE + BEGIN + "".join(f"print({name!r})\n{body}" for name, body in PROGRAMS.items()) + END
    command = [sys.executable, "-c", program]
    replicas = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = [replica.communicate(timeout=240) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0], done
    assert done[0][0] == done[1][0]


def test_a_group_needs_connected_processes():
    with pytest.raises(tq.QuantizerError, match="process_group must be None where no processes are connected"):
        tq.prepare(nn.Sequential(nn.Linear(2, 2)), tq.Recipe({}, {}), [torch.ones(1, 2)], process_group="all")


def test_processes_that_calibrate_alone_are_warned(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        with pytest.warns(UserWarning, match="each process calibrates alone"):
            tq.prepare(nn.Sequential(nn.Linear(2, 2)), tq.Recipe({}, {}), [torch.ones(1, 2)], verbose=False)
    finally:
        torch.distributed.destroy_process_group()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tq.prepare(nn.Sequential(nn.Linear(2, 2)), tq.Recipe({}, {}), [torch.ones(1, 2)], verbose=False)
