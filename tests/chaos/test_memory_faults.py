"""Faults of memory, by the kernel's own hand and by limits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.cgroups import Cgroup
from aiobs.chaos.fault import build_fault
from aiobs.errors import PlanError

from .chaos_scene import eventually, state_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="limits a cgroup: needs root")

GROWING = """
import time
held = []
while True:
    try:
        held.append(bytearray(1 << 20))
        print(len(held), flush=True)
    except MemoryError:
        print("MemoryError", flush=True)
    time.sleep(0.01)
    if len(held) > 400:
        held.clear()
"""


@pytest.fixture
def growing() -> Iterator[subprocess.Popen[str]]:
    """A process that takes 1 MiB every 10 ms."""
    process = subprocess.Popen([sys.executable, "-c", GROWING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@root
def test_the_kernel_kills_what_grows_and_nobody_else(
    growing: subprocess.Popen[str], victim: subprocess.Popen[bytes]
) -> None:
    with chaos.inject("memory.oom", f"pid:{growing.pid}") as injection:
        assert growing.wait(5) == -signal.SIGKILL
        assert any("oom_kill" in line for line in injection.evidence)
        assert victim.poll() is None


@root
def test_a_memory_stall_ends_with_the_fault(growing: subprocess.Popen[str]) -> None:
    with chaos.inject("memory.oom", f"pid:{growing.pid}", stall=True) as injection:
        assert any("under_oom" in line or "memory.high" in line for line in injection.evidence)
        assert state_of(growing.pid) == "D"
    assert growing.stdout is not None
    assert eventually(lambda: state_of(growing.pid) in ("S", "R"))
    assert growing.poll() is None


def test_allocations_fail_and_the_process_lives(growing: subprocess.Popen[str]) -> None:
    assert growing.stdout is not None
    with chaos.inject("memory.limit", f"pid:{growing.pid}"):
        assert eventually(lambda: growing.stdout is not None and growing.stdout.readline() == "MemoryError\n")
    assert eventually(lambda: growing.stdout is not None and growing.stdout.readline()[:-1].isdigit())
    assert growing.poll() is None


def test_pressure_is_held_and_let_go(victim: subprocess.Popen[bytes]) -> None:
    def available() -> int:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) << 10

    size = 512 << 20
    before = available()
    with chaos.inject("memory.pressure", f"pid:{victim.pid}", ballast_bytes=size) as injection:
        assert eventually(lambda: before - available() > size // 2)
        assert "bytes of memory are held" in injection.evidence[0]
    assert eventually(lambda: before - available() < size // 2)


def test_more_pressure_than_the_host_bears_is_refused(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(PlanError, match="more than 90% of the"):
        chaos.inject("memory.pressure", f"pid:{victim.pid}", ballast_bytes=1 << 50)


@root
def test_a_group_that_is_there_keeps_its_own_limit() -> None:
    base = Path("/sys/fs/cgroup/memory")
    if not base.is_dir():
        pytest.skip("no version 1 memory controller at /sys/fs/cgroup/memory")
    group = base / f"aiobs-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(300 << 20))
    process = subprocess.Popen([sys.executable, "-c", GROWING], stdout=subprocess.PIPE, text=True)
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        with chaos.inject("memory.oom", f"cgroup:/{group.name}"):
            assert process.wait(5) == -signal.SIGKILL
        assert (group / "memory.limit_in_bytes").read_text().strip() == str(300 << 20)
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
    finally:
        process.kill()
        process.communicate()
        time.sleep(0.05)
        group.rmdir()


STEADY = """
import mmap, time
while True:
    try:
        mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        print("16 MiB", flush=True)
    except OSError:
        print("none", flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def steady() -> Iterator[subprocess.Popen[str]]:
    """A process that takes 16 MiB, and gives them back, again and again."""
    process = subprocess.Popen([sys.executable, "-c", STEADY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_leak_takes_a_program_s_room_and_gives_it_back(steady: subprocess.Popen[str]) -> None:
    assert steady.stdout is not None
    room = {"rate_bytes": 64 << 20, "most_bytes": 32 << 20, "how": "limit"}
    before = resource.prlimit(steady.pid, resource.RLIMIT_DATA)
    with chaos.inject("memory.leak", f"pid:{steady.pid}", **room) as injection:
        assert any("has fallen by" in line for line in injection.evidence)
        seen = [resource.prlimit(steady.pid, resource.RLIMIT_DATA)[0]]

        def fallen() -> bool:
            seen.append(resource.prlimit(steady.pid, resource.RLIMIT_DATA)[0])
            return seen[0] - seen[-1] > 4 << 20

        assert eventually(fallen)
        assert eventually(lambda: steady.stdout is not None and steady.stdout.readline() == "none\n")
    assert sorted(seen, reverse=True) == seen
    assert resource.prlimit(steady.pid, resource.RLIMIT_DATA) == before
    assert eventually(lambda: steady.stdout is not None and steady.stdout.readline() == "16 MiB\n")


@root
def test_a_leak_grows_in_the_target_s_group_up_to_its_bound(victim: subprocess.Popen[bytes]) -> None:
    with chaos.inject("memory.leak", f"pid:{victim.pid}", rate_bytes=64 << 20, most_bytes=24 << 20) as injection:
        said = [line for line in injection.evidence if "memory usage of cgroup" in line]
        path = said[0].split()[4]
        group = Cgroup(path)
        assert eventually(lambda: int(group.read("memory_usage") or 0) > 24 << 20)
        time.sleep(0.2)
        assert int(group.read("memory_usage") or 0) < 64 << 20  # the ballast's own interpreter is in it too
        assert (
            victim.pid in group.processes()
            or str(victim.pid) in (group.folder("memory")[0] / "cgroup.procs").read_text().split()
        )  # type: ignore[index]
    assert victim.poll() is None


@pytest.mark.parametrize(("parameter", "value"), [("how", "x"), ("rate_bytes", 0), ("most_bytes", 1)])
def test_bad_leaks_are_named(parameter: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"memory.leak: {parameter}"):
        build_fault("memory.leak", {parameter: value})
