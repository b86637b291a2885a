"""Device time is right to the microsecond, never waits for the GPU, and says what a step was bound by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from aiobs.patches.torch import device_time, gpu  # noqa: E402
from aiobs.patches.torch.device_time import DeviceTime  # noqa: E402
from aiobs.patches.torch.gpu_identity import Identity  # noqa: E402

from .simulated_gpu import MS, US, S, SimulatedGpus, Stream  # noqa: E402

Record = Callable[..., Any]
PHASES = ["data.wait", "forward", "backward", "optimizer"]


class Timed:
    """Device time over a simulated machine, and what it wrote."""

    def __init__(self, machine: SimulatedGpus) -> None:
        self.machine = machine
        self.arrivals: dict[int, tuple[int, int]] = {}
        self.until = 0
        self.dropped = 0
        self.records: list[int] = []
        self.time = DeviceTime(machine, 7, self._write, machine.now)

    def _write(self, thread: int, arrivals: Any, until: int, dropped: int) -> None:
        assert thread == 7
        moments = [moment for moment, _, _ in arrivals]
        assert moments == sorted(set(moments))
        self.records.append(len(arrivals))
        self.arrivals.update({moment: (reached, device) for moment, reached, device in arrivals})
        assert until == 0 or until > self.until
        self.until, self.dropped = max(self.until, until), self.dropped + dropped

    def mark(self) -> int:
        now = self.machine.now()
        self.time.mark(now)
        self.machine.spend(1)
        return now

    def phase(self, work_ns: int, launching_ns: int = 100 * US) -> tuple[int, int]:
        begin = self.mark()
        self.machine.launch(work_ns, launching_ns)
        return begin, self.mark()

    def gpu_ns(self, phase: tuple[int, int]) -> int:
        return self.arrivals[phase[1]][0] - self.arrivals[phase[0]][0]


def test_a_phase_takes_as_long_as_the_gpu_works_on_it_however_far_ahead_the_program_is() -> None:
    timed = Timed(SimulatedGpus())
    phases = []
    for _ in range(20):
        phases.append((timed.phase(3 * MS), timed.phase(5 * MS)))
        timed.time.settle()
    assert timed.machine.synchronised == 1, "only to set the clock, at the start"
    assert timed.machine.now() < timed.machine.current.free_ns - 100 * MS, "the program has not waited"
    timed.machine.wait()
    timed.time.finish()
    for forward, backward in phases[1:]:
        assert abs(timed.gpu_ns(forward) - 3 * MS) < 5 * US
        assert abs(timed.gpu_ns(backward) - 5 * MS) < 5 * US
    assert not timed.dropped


def test_nothing_is_written_before_the_gpu_is_there() -> None:
    timed = Timed(SimulatedGpus())
    phase = timed.phase(10 * MS)
    timed.time.settle()
    assert timed.records == [0], "says that times will follow"
    timed.time.settle()
    assert timed.records == [0]
    timed.machine.wait()
    timed.time.settle()
    assert timed.records == [0, 2]
    assert timed.until == phase[1]


def test_events_are_used_again() -> None:
    timed = Timed(SimulatedGpus())
    for _ in range(500):
        timed.phase(1 * MS, 1 * MS)
        timed.machine.spend(1 * MS)
        timed.time.settle()
    assert len(timed.machine.events) < 20
    assert sum(event.records for event in timed.machine.events) > 1000


@pytest.mark.parametrize("drift", [0.0, 5e-5, -5e-5], ids=["none", "fast", "slow"])
@pytest.mark.parametrize("idle", [True, False], ids=["idle now and then", "never idle"])
def test_hours_later_times_are_still_right(drift: float, idle: bool) -> None:
    machine = SimulatedGpus(drift=drift)
    machine.latency_ns, machine.query_ns = 4 * US, 1 * US
    timed = Timed(machine)
    phase = timed.phase(80 * MS)
    truth = 0
    for _ in range(40_000):  # more than an hour
        phase = timed.phase(80 * MS)
        truth = machine.current.free_ns
        machine.wait_until(truth + (10 * MS if idle else -10 * MS))
        timed.time.settle()
    machine.wait()
    timed.time.finish()
    expected = 80 * MS + (100 * US if idle else 0)  # launching counts where the GPU had nothing else to do
    assert abs(timed.gpu_ns(phase) - expected) < 20 * US
    if idle:
        assert abs(timed.arrivals[phase[1]][0] - truth) < 100 * US
    assert machine.synchronised == 1


def test_an_always_busy_gpu_without_drift_is_placed_exactly_after_an_hour() -> None:
    machine = SimulatedGpus()
    timed = Timed(machine)
    for _ in range(40_000):
        phase = timed.phase(100 * MS)
        machine.wait_until(machine.current.free_ns - 10 * MS)
        timed.time.settle()
    truth = machine.current.free_ns
    machine.wait()
    timed.time.finish()
    assert abs(timed.arrivals[phase[1]][0] - truth) < 100 * US


def test_streams_that_overtake_each_other() -> None:
    machine = SimulatedGpus()
    machine.streams[0].append(Stream())
    timed = Timed(machine)
    slow = timed.phase(50 * MS)
    machine.stream = 1
    quick = timed.phase(2 * MS)
    timed.time.settle()
    machine.wait()
    timed.time.settle()
    assert timed.records == [0], "the first stream is not there yet"
    machine.stream = 0
    machine.wait()
    timed.time.settle()
    assert abs(timed.gpu_ns(slow) - 50 * MS) < 1 * MS
    assert abs(timed.gpu_ns(quick) - 2 * MS) < 1 * MS
    assert timed.arrivals[quick[1]][0] < timed.arrivals[slow[1]][0]


def test_each_gpu_has_its_own_events_and_clock() -> None:
    machine = SimulatedGpus(devices=2)
    timed = Timed(machine)
    first = timed.phase(5 * MS)
    machine.device = 1
    second = timed.phase(7 * MS)
    for number in (0, 1):
        machine.device = number
        machine.wait()
    timed.time.settle()
    assert [timed.arrivals[it][1] for it in (*first, *second)] == [0, 0, 1, 1]
    assert abs(timed.gpu_ns(first) - 5 * MS) < 200 * US
    assert abs(timed.gpu_ns(second) - 7 * MS) < 200 * US
    for _ in range(50):
        machine.device = 1 - machine.device
        timed.phase(1 * MS)
        machine.wait()
        timed.time.settle()
    assert machine.synchronised == 2


def test_while_a_graph_is_captured_nothing_is_recorded_and_nothing_asked() -> None:
    machine = SimulatedGpus()
    timed = Timed(machine)
    before = timed.phase(1 * MS)
    machine.graph = True
    during = timed.phase(1 * MS)
    timed.time.settle()
    machine.graph = False
    machine.elsewhere = True  # another thread captures: events may be recorded, but not asked
    timed.time.settle()
    machine.elsewhere = False
    after = timed.phase(1 * MS)
    machine.wait()
    timed.time.settle()
    timed.time.settle()
    assert {*before, *after} <= timed.arrivals.keys()
    assert not {*during} & timed.arrivals.keys()


def test_a_gpu_that_does_not_move_is_given_up_on_within_bounds() -> None:
    machine = SimulatedGpus()
    timed = Timed(machine)
    timed.phase(1 * MS)
    machine.wait()
    machine.launch(3600 * S)
    for _ in range(1000):
        timed.phase(1 * MS)
        timed.time.settle()
    kept = device_time.TURNS_LIMIT * 2
    assert timed.dropped >= 2000 - kept
    assert len(machine.events) < 2100
    assert timed.until > 0, "the agent does not wait for what was given up"
    timed.time.finish()
    assert timed.dropped >= 2000


def test_streams_that_come_and_go_are_not_remembered_for_ever() -> None:
    machine = SimulatedGpus()
    timed = Timed(machine)
    phases = []
    for number in range(600):
        machine.streams[0].append(Stream())
        machine.stream = number
        phases.append(timed.phase(2 * MS))
        machine.wait()
        timed.time.settle()
    assert len(timed.time._lanes) <= device_time.LANES_LIMIT
    assert all(abs(timed.gpu_ns(phase) - 2 * MS) < 200 * US for phase in phases)
    assert machine.synchronised == 1


def test_a_step_without_end_is_settled_in_turns() -> None:
    machine = SimulatedGpus()
    timed = Timed(machine)
    for _ in range(1000):
        timed.phase(10 * US, 20 * US)
        machine.wait()
    assert len(timed.arrivals) > 1500
    assert max(timed.records) <= device_time.TURN_MOMENTS


def test_moments_that_are_past_are_not_noted_late() -> None:
    timed = Timed(SimulatedGpus())
    begin = timed.mark()
    timed.time.mark(begin)
    timed.time.mark(begin - 1)
    timed.time.skip(begin + 10 * MS)
    timed.time.mark(begin + 5 * MS)
    timed.machine.spend(20 * MS)
    timed.time.settle()
    assert set(timed.arrivals) == {begin}


def test_an_error_of_the_gpu_ends_timing_and_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOBS_RAISE", raising=False)
    timed = Timed(SimulatedGpus())
    timed.phase(1 * MS)

    def broken() -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    timed.machine.here = broken  # type: ignore[method-assign]
    timed.mark()
    del timed.machine.here  # type: ignore[method-assign]
    timed.mark()
    timed.time.settle()
    timed.time.finish()
    assert not timed.arrivals


# -- whole loops -----------------------------------------------------------------------------------------------
class Rows(Dataset[Any]):
    def __init__(self, size: int, seconds: float) -> None:
        self.size, self.seconds = size, seconds

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.full((4,), float(index))


class Net(nn.Module):
    """A model that queues kernels on the simulated GPU: `launching_ms` of the program's time, `work_ms` of its own."""

    def __init__(self, machine: SimulatedGpus, launching_ms: float, work_ms: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.machine, self.launching, self.work = machine, int(launching_ms * MS), int(work_ms * MS)

    def forward(self, x: Any) -> Any:
        self.kernels(self.work)
        y = self.layer(x)
        if y.requires_grad:
            y.register_hook(lambda _: self.kernels(2 * self.work))
        return y

    def kernels(self, work_ns: int) -> None:
        for _ in range(10):
            self.machine.launch(work_ns // 10, self.launching // 10)


@pytest.fixture
def machine() -> Iterator[SimulatedGpus]:
    """A simulated GPU that the process seems to use."""
    found = SimulatedGpus(clock=time.monotonic_ns)
    found.latency_ns = 3 * US
    yield found
    gpu.side.stop()


def use(machine: SimulatedGpus) -> None:
    gpu.side.used, gpu.side.gpus = True, machine
    gpu.side.identity = Identity(lambda: ["GPU-11111111-2222-3333-4444-555555555555"])


def train(machine: SimulatedGpus, *, launching_ms: float, work_ms: float, wait_s: float = 0.0, asks: bool = False) -> None:  # fmt: skip
    net = Net(machine, launching_ms, work_ms)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x in DataLoader(Rows(8, wait_s), batch_size=1):
        loss = net(x).square().sum()
        loss.backward()
        optimizer.step()
        if asks:
            machine.wait()
    machine.wait()


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ({"launching_ms": 0.5, "work_ms": 6.0}, "compute"),
        ({"launching_ms": 0.5, "work_ms": 6.0, "asks": True}, "compute"),
        ({"launching_ms": 5.0, "work_ms": 0.5}, "launch"),
        ({"launching_ms": 0.5, "work_ms": 0.5, "wait_s": 0.01}, "input"),
    ],
    ids=["compute", "compute, asked for its loss", "launch", "input"],
)
def test_what_a_step_was_bound_by(record: Record, machine: SimulatedGpus, loop: dict[str, Any], expected: str) -> None:
    recording = record()
    use(machine)
    train(machine, **loop)
    time.sleep(0.001)
    seen = recording.finish()
    assert seen.phases() == [PHASES] * 8
    assert machine.synchronised == 1
    verdicts = [step.span.attributes.get("aiobs.step.bound") for step in seen.steps]
    assert verdicts[2:].count(expected) >= 5, [step.span.attributes for step in seen.steps]
    for step in seen.steps:
        shares = [step.span.attributes[f"aiobs.{name}"] for name in ("gpu.busy", "step.bound.input", "step.bound.launch")]  # fmt: skip
        assert sum(shares) == pytest.approx(1, abs=0.001)


def test_phases_carry_the_time_they_took_on_the_gpu(record: Record, machine: SimulatedGpus) -> None:
    recording = record()
    use(machine)
    train(machine, launching_ms=0.2, work_ms=4)
    time.sleep(0.001)
    seen = recording.finish()
    for step in seen.steps[2:]:
        found = {phase.name: phase.attributes["aiobs.gpu.duration"] for phase in step.phases}
        assert 0.004 <= found["forward"] < 0.005
        assert 0.008 <= found["backward"] < 0.009
        assert found["data.wait"] < 0.001
        by_program = {phase.name: phase.duration_s for phase in step.phases}
        assert by_program["forward"] < 0.003, "the program itself is long gone"
    assert seen.resource["aiobs.gpu.ids"] == ["GPU-11111111-2222-3333-4444-555555555555"]


def test_steps_marked_by_the_user_have_it_too(record: Record, machine: SimulatedGpus) -> None:
    import aiobs

    recording = record()
    use(machine)
    net = Net(machine, 0.2, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in range(5):
        with aiobs.step(number):
            net(torch.ones(1, 4)).sum().backward()
            optimizer.step()
    machine.wait()
    time.sleep(0.001)
    seen = recording.finish()
    assert len(seen.steps) == 5
    durations = [
        it.attributes["aiobs.gpu.duration"] for step in seen.steps for it in step.phases if it.name == "forward"
    ]
    assert all(0.003 <= seconds < 0.004 for seconds in durations[1:])


def test_without_cuda_there_is_nothing_of_it(record: Record) -> None:
    recording = record()
    assert gpu.side.gpus is None
    train(SimulatedGpus(), launching_ms=0, work_ms=0)
    seen = recording.finish()
    for step in seen.steps:
        assert not [key for key in step.span.attributes if "gpu" in key or "bound" in key]
    assert "aiobs.gpu.ids" not in seen.resource
    assert not torch.cuda.is_initialized()
