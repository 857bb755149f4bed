"""Data-parallel training keeps the quantization parameters of all replicas equal."""

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import torch
from torch_builders import images, network, nn
rank, file = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
model = nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for step in range(3):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images(step).chunk(2)[rank]), (torch.arange(6) % 5).chunk(2)[rank])
    loss.backward()
    optimizer.step()
trained = {name: value.tolist() for name, value in model.module.state_dict().items() if "threshold" in name}
print([value for name, value in sorted(trained.items())])
torch.distributed.destroy_process_group()
"""


def test_replicas_stay_equal(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "rendezvous")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = [replica.communicate(timeout=120) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0], done
    first, second = (printed.strip() for printed, _ in done)
    assert first == second
    moved = [value for value in re.findall(r"[\d.]+", first) if float(value) != 1.0]
    assert len(moved) > 5
