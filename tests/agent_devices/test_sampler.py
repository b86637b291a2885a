"""The sampler: a process of its own that may hang, crash and end without harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.sampling import Sampling
from aiobs.device import wire
from aiobs.device.base import FAST, Identity, Reading
from aiobs.device.pace import Pace
from aiobs.device.sampler import Sampler
from aiobs.errors import DeviceError, DeviceLostError

LIBRARY = """
import os, sys, time
from aiobs.clock import monotonic_ns
from aiobs.device import quantities, sampler
from aiobs.device.base import Identity, Reading

class Device:
    groups = {"fast": 1.0}
    def __init__(self, index):
        self.identity = Identity(f"GPU-{index}", index, "Test", "test")
    def read(self, group):
        on_read()
        return Reading(group, monotonic_ns(), {quantities.UTILIZATION: 0.5})
    def processes(self):
        return {4711: 1}

class Library:
    vendor, problems = "test", ()
    def devices(self):
        return [Device(index) for index in range(count)]
    def wait_events(self, timeout_s):
        time.sleep(timeout_s)
        return []
    def close(self):
        pass

count = 2
def on_read():
    pass
def find():
    return [Library()]
"""
RUN = """
arguments = dict(zip(sys.argv[1::2], map(int, sys.argv[2::2])))
sys.exit(sampler.run(find, period_s=0.05, out=arguments["--out"], control=arguments["--control"], agent=arguments["--agent"]))
"""


class Watched:
    """A :class:`Sampling` that is given its turns until something is heard."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.heard: list[tuple[str, Any]] = []

    def until(self, condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.heard[-5:]
            self.heard += self.sampling.turn()
            time.sleep(0.01)

    def of(self, kind: str) -> list[Any]:
        return [content for found, content in self.heard if found == kind]

    @property
    def pid(self) -> int:
        return self.sampling._pid


@pytest.fixture
def start() -> Iterator[Callable[..., Watched]]:
    """Starts a sampler over devices written in Python; `code` changes what they do."""
    made: list[Sampling] = []

    def make(code: str = "", **how: Any) -> Watched:
        program = LIBRARY + textwrap.dedent(code) + RUN
        made.append(Sampling([sys.executable, "-c", program], 0.05, **how))
        return Watched(made[-1])

    yield make
    for sampling in made:
        sampling.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def test_devices_and_readings_are_told_and_processes_when_asked(start: Callable[..., Watched]) -> None:
    watched = start()
    watched.until(lambda: len(watched.of(wire.READINGS)) > 3)
    (listed,) = watched.of(wire.DEVICES)
    assert [identity.id for identity in wire.unpack_devices(listed)] == ["GPU-0", "GPU-1"]
    read = [pair for content in watched.of(wire.READINGS) for pair in wire.unpack_readings(content)]
    assert {gpu for gpu, _ in read} == {"GPU-0", "GPU-1"}
    assert all(reading.group == FAST and 0 < reading.time_ns <= time.monotonic_ns() for _, reading in read)
    assert not watched.of(wire.PROCESSES)
    watched.sampling.ask(wire.WHO)
    watched.until(lambda: watched.of(wire.PROCESSES))
    assert watched.of(wire.PROCESSES) == [{"GPU-0": [4711], "GPU-1": [4711]}]


def test_without_devices_it_ends_and_is_not_started_again(start: Callable[..., Watched], caplog: Any) -> None:
    watched = start("count = 0")
    watched.until(lambda: watched.sampling.over)
    assert watched.sampling.turn() == []
    assert not watched.sampling.running
    assert not caplog.records


@pytest.mark.parametrize("fault", ["time.sleep(1000)", "os.kill(os.getpid(), 11)", "os._exit(3)"])
def test_one_that_hangs_or_dies_is_replaced(start: Callable[..., Watched], tmp_path: Path, fault: str) -> None:
    mark = tmp_path / "once"
    watched = start(
        f"""
        reads = 0
        def on_read():
            global reads
            reads += 1
            if reads > 4 and not os.path.exists({str(mark)!r}):
                open({str(mark)!r}, "w").close()
                {fault}
        """,
        hang_s=0.3,
    )
    watched.until(lambda: watched.of(wire.READINGS))
    first = watched.pid
    watched.until(lambda: watched.sampling.restarts == 1 and len(watched.of(wire.DEVICES)) == 2)
    assert watched.pid != first
    watched.until(lambda: gone(first))
    before = len(watched.of(wire.READINGS))
    watched.until(lambda: len(watched.of(wire.READINGS)) > before + 2)
    assert watched.sampling.restarts == 1


@pytest.mark.parametrize("hangs", [False, True])
def test_it_ends_with_the_agent_however_that_dies(tmp_path: Path, hangs: bool) -> None:
    """SIGKILL of the agent, whose forked child still holds the pipe."""
    agent = f"""
        import os, sys, time
        from aiobs.agent.sampling import Sampling
        code = {LIBRARY + ("def on_read(): time.sleep(1000)" if hangs else "") + RUN!r}
        sampling = Sampling([sys.executable, "-c", code], 0.05)
        while not sampling._pid:
            sampling.turn()
            time.sleep(0.01)
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        print(sampling._pid, child, flush=True)
        time.sleep(20)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(agent)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sampler, child = map(int, process.stdout.readline().split())
        try:
            assert not gone(sampler)
            process.kill()
            process.wait()
            deadline = time.monotonic() + 5
            while not gone(sampler):
                assert time.monotonic() < deadline, "the sampler outlived its agent"
                time.sleep(0.01)
        finally:
            os.kill(child, signal.SIGKILL)


def test_where_no_process_can_be_started_nothing_is_sampled_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no more processes")

    sampling = Sampling(["sampler"], 1.0)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert sampling.turn() == sampling.turn() == []
    assert sampling.over
    assert len([record for record in caplog.records if "not sampled" in record.message]) <= 1


# -- which devices, and how often ---------------------------------------------------------------------------


class Pretend:
    """A device whose readings are scripted."""

    def __init__(self, name: str) -> None:
        self.groups = {FAST: 1.0, "slow": 10.0}
        self.identity = Identity(name, 0, "Pretended", "test")
        self.fault: Exception | None = None
        self.takes_s = 0.0

    def read(self, group: str) -> Reading:
        time.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        return Reading(group, time.monotonic_ns(), {})

    def processes(self) -> dict[int, int]:
        return {}


class Shelf:
    """A library of them."""

    vendor, problems = "test", ()

    def __init__(self, *devices: Pretend) -> None:
        self.there = list(devices)

    def devices(self) -> list[Pretend]:
        return self.there

    def wait_events(self, timeout_s: float) -> list[Any]:
        return []

    def close(self) -> None:
        pass


def sampler_of(shelf: Shelf, period_s: float = 0.01) -> tuple[Sampler, list[tuple[str, Any]]]:
    said: list[tuple[str, Any]] = []
    sampler = Sampler([shelf], period_s, lambda kind, content: said.append((kind, content)))
    sampler.list_devices(0)
    sampler.take_list()
    return sampler, said


def test_a_lost_device_is_told_once_and_told_again_when_it_is_back() -> None:
    one, other = Pretend("GPU-1"), Pretend("GPU-2")
    sampler, said = sampler_of(Shelf(one, other))
    one.fault = DeviceLostError("GPU-1", "fell off the bus")
    for _ in range(3):
        time.sleep(0.02)
        sampler.tick()
    events = [event for kind, content in said if kind == wire.EVENTS for event in wire.unpack_events(content)]
    assert [(event.device, event.kind) for event in events] == [("GPU-1", "lost")]
    assert {row[0] for kind, content in said[-2:] if kind == wire.READINGS for row in content} == {"GPU-2"}
    one.fault = None
    sampler.list_devices(0)
    sampler.tick()
    events = [event for kind, content in said if kind == wire.EVENTS for event in wire.unpack_events(content)]
    assert [event.kind for event in events] == ["lost", "recovered"]


def test_devices_that_come_and_go_are_listed_anew() -> None:
    shelf = Shelf(Pretend("GPU-1"))
    sampler, said = sampler_of(shelf)
    shelf.there = [Pretend("GPU-1"), Pretend("MIG-1"), Pretend("MIG-2")]
    sampler.list_devices(0)
    sampler.tick()
    listed = [content for kind, content in said if kind == wire.DEVICES]
    assert [[one["id"] for one in content] for content in listed] == [["GPU-1"], ["GPU-1", "MIG-1", "MIG-2"]]
    sampler.list_devices(0)
    sampler.tick()
    assert len([kind for kind, _ in said if kind == wire.DEVICES]) == 2


def test_a_refused_reading_is_noted_once_and_the_others_go_on() -> None:
    one = Pretend("GPU-1")
    one.fault = DeviceError("GPU-1", "no permission")
    sampler, said = sampler_of(Shelf(one, Pretend("GPU-2")))
    for _ in range(3):
        time.sleep(0.02)
        sampler.tick()
    assert [content for kind, content in said if kind == wire.NOTE] == ["GPU-1: no permission"]
    assert any(row[0] == "GPU-2" for kind, content in said if kind == wire.READINGS for row in content)


def test_a_slow_reading_makes_them_fewer_and_is_told() -> None:
    one = Pretend("GPU-1")
    one.takes_s = 0.02
    sampler, said = sampler_of(Shelf(one))
    sampler.tick()
    slow = [content for kind, content in said if kind == wire.SLOW]
    assert slow[0][:2] == ["GPU-1", FAST]
    assert slow[0][3] >= 0.4


def test_the_pace_follows_the_readers_slowness_and_comes_back() -> None:
    pace = Pace(1.0, 100.0)
    assert not pace.took(0.04, 100.0)
    assert pace.period_s == 1.0
    assert pace.took(0.5, 101.5)
    assert pace.period_s == 10.0
    assert not pace.due(110)
    assert pace.due(112)
    for _ in range(5):
        assert not pace.took(0.001, 120.0)
    assert pace.period_s == 1.0
    assert pace.stretched == 1


def test_messages_survive_any_cut_and_rubbish_is_left_out() -> None:
    raw = wire.line(wire.NOTE, "one") + b"rubbish\n[1]\n" + wire.line(wire.NOTE, "two")
    for cut in range(len(raw)):
        found, rest = wire.messages(raw[:cut])
        more, rest = wire.messages(rest + raw[cut:])
        assert [content for _, content in [*found, *more]] == ["one", "two"]
        assert rest == b""
