"""What a process says of its GPUs: which they are, what the allocator holds; and how it notices that it uses any.

PyTorch's CUDA functions are replaced here, as CPU builds have none; ``tests/gpu`` has the real ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiobs import recorder  # noqa: E402
from aiobs.device.fake.gpu import fake_uuid  # noqa: E402
from aiobs.device.fake.state import FakeGpus  # noqa: E402
from aiobs.patches.torch import gpu  # noqa: E402
from aiobs.patches.torch.cuda_events import captures  # noqa: E402
from aiobs.patches.torch.gpu_identity import Identity, gpu_id  # noqa: E402
from aiobs.patches.torch.memory import PATIENCE, Memory  # noqa: E402
from aiobs.telemetry import Route  # noqa: E402

from .simulated_gpu import SimulatedEvent, SimulatedGpus  # noqa: E402

Record = Callable[..., Any]
UUIDS = ["11111111-aaaa-bbbb-cccc-000000000000", "22222222-aaaa-bbbb-cccc-000000000000"]
STATS = {
    "allocated_bytes": {"all": {"current": 1 << 20, "peak": 3 << 20}},
    "reserved_bytes": {"all": {"current": 4 << 20, "peak": 4 << 20}},
    "num_alloc_retries": 1,
}


def captured(_graph: Any, *, fails: bool = False) -> None:
    if fails:
        raise RuntimeError("no capture")


class Cuda:
    """CUDA as PyTorch would have it, over a simulated machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.machine = SimulatedGpus(devices=2)
        self.contexts: set[int] = set()
        self.history: list[dict[str, Any]] = []
        machine, core = self.machine, torch._C
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "_queued_calls", [])
        patch.setattr(torch.cuda, "set_device", self.set_device)
        patch.setattr(torch.cuda, "current_stream", lambda device: machine.streams[device][machine.stream])
        patch.setattr(torch.cuda, "Event", lambda enable_timing: SimulatedEvent(machine))
        patch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: self.history.append(how))
        patch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=UUIDS[number]))
        patch.setattr(torch.cuda.CUDAGraph, "capture_begin", captured)
        patch.setattr(torch.cuda.CUDAGraph, "capture_end", captured)
        for name, function in {
            "_cuda_getDeviceCount": lambda: 2,
            "_cuda_getDevice": lambda: machine.device,
            "_cuda_getCurrentRawStream": lambda device: id(machine.streams[device][machine.stream]),
            "_cuda_isCurrentStreamCapturing": lambda: machine.graph,
            "_cuda_hasPrimaryContext": self.contexts.__contains__,
            "_cuda_memoryStats": lambda device: STATS,
        }.items():
            patch.setattr(core, name, function, raising=False)

    def set_device(self, number: int) -> None:
        self.machine.device = number

    def initialise(self) -> None:
        """What the first use of CUDA does."""
        for call, _ in torch.cuda._queued_calls:
            call()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    yield Cuda(monkeypatch)
    gpu.side.stop()


def train(cuda: Cuda, steps: int) -> None:
    net = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        cuda.machine.launch(1000)
        net(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        cuda.machine.wait()


def test_everything_begins_with_the_programs_own_use_of_cuda(record: Record, cuda: Cuda) -> None:
    recording = record()
    assert len(torch.cuda._queued_calls) == 1
    train(cuda, 2)
    assert gpu.side.gpus is None
    cuda.initialise()
    train(cuda, 3)
    seen = recording.finish()
    allocated = [step.span.attributes.get("aiobs.gpu.allocator.allocated") for step in seen.steps]
    assert allocated == [None, None, 1 << 20, 1 << 20, 1 << 20]
    last = seen.steps[3].span.attributes
    assert last["aiobs.gpu.allocator.reserved"] == 4 << 20
    assert last["aiobs.gpu.allocator.peak"] == 3 << 20
    assert last["aiobs.gpu.allocator.retries"] == 1
    assert any("aiobs.gpu.duration" in phase.attributes for phase in seen.steps[3].phases)
    assert seen.resource["aiobs.gpu.ids"] == [f"GPU-{UUIDS[0]}"]
    assert gpu.side.gpus is None, "gone with the patch"


def test_device_time_can_be_switched_off(record: Record, cuda: Cuda) -> None:
    recording = record(device_time="off")
    cuda.initialise()
    train(cuda, 2)
    seen = recording.finish()
    assert not [it for step in seen.steps for it in step.phases if "aiobs.gpu.duration" in it.attributes]
    assert seen.steps[0].span.attributes["aiobs.gpu.allocator.allocated"] == 1 << 20
    assert cuda.machine.synchronised == 0


def test_a_gpu_chosen_by_the_program_is_said_at_once(record: Record, cuda: Cuda) -> None:
    recording = record()
    cuda.initialise()
    assert recorder.state.resource["aiobs.gpu.ids"] == [f"GPU-{UUIDS[0]}"]
    torch.cuda.set_device(1)
    assert recorder.state.resource["aiobs.gpu.ids"] == [f"GPU-{UUIDS[1]}"]
    cuda.contexts.update({0, 1})
    train(cuda, 1)
    assert recorder.state.resource["aiobs.gpu.ids"] == [f"GPU-{uuid}" for uuid in UUIDS]
    recording.finish()
    assert torch.cuda.set_device == cuda.set_device


def test_a_forked_child_has_no_part_in_its_parents_gpu(record: Record, cuda: Cuda) -> None:
    recording = record()
    cuda.initialise()
    child = os.fork()
    if not child:
        with recorder.span("child"):
            pass
        recorder.stop()
        os._exit(int(gpu.side.used))
    assert os.waitpid(child, 0)[1] == 0
    recorder.span("parent").__enter__().__exit__(None, None, None)
    seen = recording.finish()
    assert "aiobs.gpu.ids" not in seen.captured.span("child").resource
    assert "aiobs.gpu.ids" in seen.captured.span("parent").resource


def test_the_history_is_kept_while_recording(record: Record, cuda: Cuda) -> None:
    recording = record(memory_history=5000)
    assert cuda.history == []
    cuda.initialise()
    assert cuda.history == [{"max_entries": 5000}]
    recording.finish()
    assert cuda.history[1:] == [{"enabled": None}]


def test_captures_are_counted_in_every_thread(record: Record, cuda: Cuda) -> None:
    recording = record()
    cuda.initialise()
    gpus = gpu.side.gpus
    assert gpus is not None
    assert gpus.here() is gpus.here()
    graph: Any = object()
    torch.cuda.CUDAGraph.capture_begin(graph)
    assert gpus.here() is None
    assert gpus.capturing()
    torch.cuda.CUDAGraph.capture_end(graph)
    with pytest.raises(RuntimeError, match="no capture"):
        torch.cuda.CUDAGraph.capture_begin(graph, fails=True)
    assert captures.count == 0
    cuda.machine.graph = True
    assert gpus.here() is None
    cuda.machine.graph = False
    assert gpus.here() is not None
    recording.finish()


def test_a_fake_gpu_is_used_by_the_rank_of_its_number(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIOBS_FAKE_GPU", str(FakeGpus.create(tmp_path, 2).path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    recording = record()
    net = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    seen = recording.finish()
    assert seen.resource["aiobs.gpu.ids"] == [fake_uuid(1)]


def test_ids_are_spelt_as_the_driver_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_id(SimpleNamespace(uuid=UUIDS[0])) == f"GPU-{UUIDS[0]}"
    assert gpu_id(SimpleNamespace(uuid=f"GPU-{UUIDS[0]}")) == f"GPU-{UUIDS[0]}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"MIG-{UUIDS[1]}")
    assert gpu_id(SimpleNamespace(uuid=UUIDS[1])) == f"MIG-{UUIDS[1]}"


def test_gpus_are_looked_for_ever_more_rarely() -> None:
    looks: list[int] = []
    identity = Identity(lambda: looks.append(1) or ["GPU-1"])  # type: ignore[func-returns-value]
    for _ in range(1000):
        identity.step_ended()
    assert len(looks) == 10


def test_the_allocator_is_read_at_kept_steps_and_else_as_often_as_it_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder.state, "route", Route("run"))
    now = [0]
    read: list[int] = []

    def stats() -> dict[str, Any]:
        now[0] += 20_000
        read.append(steps.number)
        return STATS

    class Steps:
        number = 0

        def set_all(self, attributes: dict[str, Any]) -> None:
            assert attributes["aiobs.gpu.allocator.peak"] == 3 << 20

    steps: Any = Steps()
    memory = Memory(stats, lambda: now[0])
    for number in range(1000, 1100):  # not among the first, which are all kept
        steps.number = number
        memory.step_ends(steps)
        now[0] += 5_000_000
    by_number = [number for number in read if number % 10 == 0]
    assert by_number == list(range(1000, 1100, 10))
    assert 20_000 * (len(read) - len(by_number)) <= 100 * 5_000_000 / PATIENCE + 20_000
    assert len(read) > len(by_number)
