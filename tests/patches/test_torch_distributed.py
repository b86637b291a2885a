"""Several ranks: one trace for each step, whoever takes part; collectives, the process group's beginning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiobs.testing import Captured

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

DDP = """
import aiobs; aiobs.init()
import torch, torch.distributed as dist
from torch import nn
dist.init_process_group("gloo")
net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 2)))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
for x, y in torch.utils.data.DataLoader(data, 2, sampler=torch.utils.data.DistributedSampler(data)):
    loss = nn.functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    dist.all_reduce(loss.detach())
    optimizer.step()
dist.barrier()
dist.destroy_process_group()
"""

FSDP = """
import aiobs; aiobs.init()
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
dist.init_process_group("gloo")
net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
for layer in net:
    fully_shard(layer)
fully_shard(net)
optimizer = torch.optim.Adam(net.parameters())
for _ in range(3):
    net(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
"""


def torchrun(code: str, folder: Path, runtime_dir: Path) -> Captured:
    script = folder / "train.py"
    script.write_text(code)
    environment = {**os.environ, "AIOBS_AGENT": "off", "AIOBS_KEEP_EVERY": "1", "OMP_NUM_THREADS": "1", "AIOBS_RUN_DIR": str(folder / "run")}  # fmt: skip
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    captured = Captured()
    captured.read(runtime_dir / "records")
    return captured


def test_ranks_share_the_trace_of_a_step(tmp_path: Path, runtime_dir: Path) -> None:
    captured = torchrun(DDP, tmp_path, runtime_dir)
    roots, others = captured.named("train step"), captured.named("rank step")
    assert len(roots) == len(others) == 2
    for root, other in zip(roots, others):
        assert root.trace_id == other.trace_id and other.parent_id == root.span_id
        assert root.resource["aiobs.rank"] == 0 and other.resource["aiobs.rank"] == 1
        for step in (root, other):
            phases = [phase.name for phase in captured.children(step) if phase.name != "rank step"]
            assert phases == ["data.wait", "forward", "backward", "all_reduce", "optimizer"]
    begun = captured.named("distributed init")
    assert sorted(span.attributes["aiobs.rank"] for span in begun) == [0, 1]
    assert {span.trace_id for span in begun} == {span.trace_id for span in captured.named("process")}
    assert {span.resource["service.name"] for span in roots + others} == {"trainer"}


def test_fully_sharded_models(tmp_path: Path, runtime_dir: Path) -> None:
    captured = torchrun(FSDP, tmp_path, runtime_dir)
    roots, others = captured.named("train step"), captured.named("rank step")
    assert len(roots) == len(others) == 3
    for step in roots[1:] + others[1:]:
        phases = [phase.name for phase in captured.children(step)]
        assert [name for name in phases if name in ("forward", "backward", "optimizer")] == ["forward", "backward", "optimizer"]  # fmt: skip
