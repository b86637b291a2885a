"""Running out of memory is told on the step it hit, and changes nothing for the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

import aiobs  # noqa: E402
from aiobs.patches.torch import gpu, memory, out_of_memory  # noqa: E402

Record = Callable[..., Any]
CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 79.15 GiB of which 19.25 MiB is "
    "free. Including non-PyTorch memory, this process has 79.13 GiB memory in use."
)


class Net(nn.Module):
    """A model that fails in forward or backward the `at`-th time it is called."""

    def __init__(self, error: Callable[[], BaseException], place: str, at: int) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 2)
        self.error, self.place, self.at, self.calls = error, place, at, 0

    def fail(self, *_: Any) -> None:
        raise self.error()

    def forward(self, x: Any) -> Any:
        self.calls += 1
        if self.calls == self.at and self.place == "forward":
            self.fail()
        y = self.layer(x)
        if self.calls == self.at and self.place == "backward":
            y.register_hook(self.fail)
        return y


class Failing(Dataset[Any]):
    def __init__(self, at: int = -1) -> None:
        self.at = at

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            self.at = -1
            raise MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64")
        return torch.ones(256)


def train(net: Any, loader: Any) -> list[BaseException]:
    """Train, leaving out batches that do not fit; returns the errors."""
    optimizer = torch.optim.Adam(net.parameters())
    errors: list[BaseException] = []
    for x in loader:
        try:
            optimizer.zero_grad()
            net(x).sum().backward()
            optimizer.step()
        except RuntimeError as error:
            errors.append(error)
    return errors


def events(seen: Any) -> list[tuple[str, Any]]:
    """Spans with an out-of-memory event, by name, and its attributes."""
    spans = seen.captured.spans if hasattr(seen, "captured") else seen.spans
    return [
        (span.name, event.attributes) for span in spans for event in span.events if event.name == "aiobs.out_of_memory"
    ]


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_gpu_out_of_memory_is_told_on_the_phase_and_the_step_it_hit(record: Record, place: str) -> None:
    thrown: list[BaseException] = []

    def error() -> BaseException:
        thrown.append(torch.OutOfMemoryError(CUDA_TEXT))
        return thrown[0]

    recording = record(keep_every=0, keep_first=0)
    errors = train(Net(error, place, 3), DataLoader(Failing(), batch_size=1))
    seen = recording.finish()
    assert errors == thrown, "the program got its own error"
    (span, told), *more = events(seen)
    assert not more
    assert span == place
    assert told["aiobs.out_of_memory.kind"] == "device"
    assert told["aiobs.out_of_memory.requested"] == 5 << 29
    assert told["aiobs.out_of_memory.device"] == 1
    assert told["aiobs.out_of_memory.free"] == 20185088
    assert told["error.type"] == "torch.OutOfMemoryError"
    failed = [step for step in seen.steps if "error.type" in step.span.attributes]
    assert [(step.number, step.span.attributes["aiobs.step.kept"]) for step in failed] == [(2, "failed")]
    assert failed[0].span.status == 2
    assert failed[0].span.attributes["error.type"] == "torch.OutOfMemoryError"
    assert [step.number for step in seen.steps] == [2, 4], "the failed one and the last: training went on"


def test_the_error_is_the_same_with_the_same_traceback(record: Record) -> None:
    def lines(recorded: bool) -> list[str]:
        recording = record() if recorded else None
        errors = train(Net(lambda: torch.OutOfMemoryError(CUDA_TEXT), "forward", 2), DataLoader(Failing(), batch_size=1))  # fmt: skip
        if recording is not None:
            recording.finish()
        (error,) = errors
        assert error.args == (CUDA_TEXT,)
        assert not vars(error)
        assert error.__context__ is None
        # Frames of ours are those of the calls that were wrapped; no other line is new, none is there twice.
        frames = traceback.extract_tb(error.__traceback__)
        return [f"{it.name}:{it.lineno}" for it in frames if "/aiobs/" not in it.filename]

    plain = lines(recorded=False)
    assert lines(recorded=True) == plain
    assert plain


def test_other_errors_are_no_lack_of_memory(record: Record) -> None:
    recording = record()
    with pytest.raises(RuntimeError, match="shapes"), aiobs.span("work"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not events(recording.finish())


def test_data_that_does_not_fit_into_the_host(record: Record) -> None:
    recording = record()
    with pytest.raises(MemoryError):
        train(Net(MemoryError, "", 0), DataLoader(Failing(at=2), batch_size=1))
    seen = recording.finish()
    ((span, told),) = events(seen)
    assert span == "data.wait"
    assert told["aiobs.out_of_memory.kind"] == "host"
    assert told["aiobs.out_of_memory.requested"] == round(7.45 * (1 << 30))
    assert told["aiobs.out_of_memory.limit"] > 0
    assert told["aiobs.out_of_memory.limit.name"] in ("cgroup", "memory")
    held = dict(line.split(": ") for line in told["aiobs.out_of_memory.consumers"])
    assert int(held["resident"]) > 50 << 20
    assert int(held["parameters"]) >= (256 * 2 + 2) * 4
    assert int(held["optimizer state"]) >= 2 * int(held["parameters"])


def test_a_span_and_a_marked_step_tell_it_too_but_each_error_once(record: Record) -> None:
    recording = record()
    with pytest.raises(torch.OutOfMemoryError), aiobs.span("outer"), aiobs.span("inner"):
        raise torch.OutOfMemoryError(CUDA_TEXT)
    with pytest.raises(torch.OutOfMemoryError), aiobs.step(0):
        raise torch.OutOfMemoryError(CUDA_TEXT.replace("2.50", "3.50"))
    assert [name for name, _ in events(recording.finish())] == ["inner", "train step"]


def test_the_error_is_not_kept_alive(record: Record) -> None:
    import gc
    import weakref

    class Held:
        pass

    recording = record()
    held = Held()
    gone = weakref.ref(held)

    def work(held: Held) -> None:
        with aiobs.span("work"):
            raise torch.OutOfMemoryError(CUDA_TEXT)

    with pytest.raises(torch.OutOfMemoryError):
        work(held)
    del held
    gc.collect()
    assert gone() is None
    recording.finish()


def test_what_the_allocator_says_and_its_snapshot(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    segments = [
        {"device": 1, "blocks": [{"size": 1 << 20, "state": "active_allocated"}] * 3},
        {
            "device": 1,
            "blocks": [{"size": 9 << 20, "state": "inactive"}, {"size": 2 << 20, "state": "active_allocated"}],
        },
        {"device": 0, "blocks": [{"size": 1 << 30, "state": "active_allocated"}]},
    ]
    stats = {
        "allocated_bytes": {"all": {"current": 100, "peak": 150}},
        "reserved_bytes": {"all": {"current": 200, "peak": 200}},
        "num_alloc_retries": 2,
    }
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(memory, "current_stats", lambda: stats)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_bytes(b"snapshot"))
    monkeypatch.setattr(out_of_memory, "_snapshots", 0)
    recording = record(run_dir=str(tmp_path / "run"))
    monkeypatch.setattr(gpu.side, "history", 1000)
    for number in range(5):
        with pytest.raises(torch.OutOfMemoryError), aiobs.span("work"):
            raise torch.OutOfMemoryError(f"{CUDA_TEXT} {number}")
    told = [attributes for _, attributes in events(recording.finish())]
    assert len(told) == 5
    assert told[0]["aiobs.gpu.allocator.allocated"] == 100
    assert told[0]["aiobs.gpu.allocator.reserved"] == 200
    assert told[0]["aiobs.gpu.allocator.peak"] == 150
    assert told[0]["aiobs.gpu.allocator.retries"] == 2
    assert told[0]["aiobs.out_of_memory.consumers"] == ["block of 1048576 x3: 3145728", "block of 2097152: 2097152"]
    written = [it["aiobs.out_of_memory.snapshot"] for it in told]
    assert [Path(path).read_bytes() for path in written[:3]] == [b"snapshot"] * 3
    assert written[3:] == ["", ""], "not one for each failed attempt"


def test_an_allocation_is_traced_to_the_programs_own_line_where_there_is_a_history() -> None:
    frames = [
        {"filename": "/x/site-packages/torch/nn/modules/linear.py", "line": 1},
        {"filename": "train.py", "line": 7},
    ]
    block = {"size": 512, "state": "active_allocated", "frames": frames}
    assert out_of_memory.largest_blocks([{"device": 0, "blocks": [block]}], 0) == [
        ("block of 512 from train.py:7", 512)
    ]


UNCAUGHT = """
import aiobs
aiobs.init(agent="off")
import torch
class Full(torch.optim.SGD):
    steps = 0
    def step(self, closure=None):
        self.steps += 1
        if self.steps == 3:
            raise torch.OutOfMemoryError(TEXT)
        return super().step(closure)
net = torch.nn.Linear(16, 4)
optimizer = Full(net.parameters(), lr=0.1)
for number in range(3):
    net(torch.ones(2, 16)).sum().backward()
    optimizer.step()
"""
PROGRAM = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from torch import nn
from aiobs.testing import capture
name = sys.argv[1]
net = nn.Linear(16, 4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def train(steps):
    for number in range(steps):
        net(torch.ones(2, 16)).sum().backward()
        optimizer.step()
with capture() as captured:
    train(3)
    number = getattr(resource, name)
    field = "VmSize" if name == "RLIMIT_AS" else "VmData"
    used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(field))
    before = resource.getrlimit(number)
    resource.setrlimit(number, (used + (1 << 28), before[1]))
    try:
        net(torch.ones(1, 16).expand(1 << 28, 16))
    except RuntimeError as error:
        text = str(error)
    resource.setrlimit(number, before)
    train(3)
found = [[s.name, dict(e.attributes)] for s in captured.spans for e in s.events if e.name == "aiobs.out_of_memory"]
steps = [s.attributes["aiobs.step"] for s in captured.named("train step")]
print(json.dumps([text, found, steps]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_is_told_from_a_full_host(limit: str, tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, limit], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    caught, found, steps = json.loads(ran.stdout.splitlines()[-1])
    assert "DefaultCPUAllocator" in caught
    assert steps == [0, 1, 2, 3, 4, 5], "the failed attempt is part of the step that then went well"
    ((span, told),) = found
    assert span == "forward"
    assert told["aiobs.out_of_memory.kind"] == "rlimit"
    assert told["aiobs.out_of_memory.limit.name"] == limit
    assert told["aiobs.out_of_memory.requested"] == 4 << 30
    assert told["aiobs.out_of_memory.limit"] - told["aiobs.out_of_memory.used"] == pytest.approx(1 << 28, rel=0.5)
    assert any(line.startswith("resident: ") for line in told["aiobs.out_of_memory.consumers"])


def test_an_error_that_ends_the_program_is_told_on_its_last_step(tmp_path: Path) -> None:
    program = UNCAUGHT.replace("TEXT", repr(CUDA_TEXT))
    variables = {**os.environ, "AIOBS_RUNTIME_DIR": str(tmp_path / "runtime"), "AIOBS_RUN_DIR": str(tmp_path / "run")}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith(f"torch.OutOfMemoryError: {CUDA_TEXT}")
    subprocess.run([sys.executable, "-m", "aiobs.cli", "recover"], capture_output=True, env=variables, timeout=60, check=True)  # fmt: skip
    spans = exported(tmp_path / "run")
    (last,) = [span for span in spans if span["name"] == "train step" and "error.type" in attributes(span)]
    assert attributes(last)["error.type"] == "torch.OutOfMemoryError"
    assert attributes(last)["aiobs.step"] == "2"
    trace = [span for span in spans if span["traceId"] == last["traceId"]]
    (event,) = [it for span in trace for it in span.get("events", []) if it["name"] == "aiobs.out_of_memory"]
    assert attributes(event)["aiobs.out_of_memory.requested"] == str(5 << 29)


def attributes(item: dict[str, Any]) -> dict[str, Any]:
    return {it["key"]: next(iter(it["value"].values())) for it in item.get("attributes", [])}


def exported(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    scopes = [scope for line in lines for resource in line["resourceSpans"] for scope in resource["scopeSpans"]]
    return [span for scope in scopes for span in scope["spans"]]
