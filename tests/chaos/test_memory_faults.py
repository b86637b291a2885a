"""Faults of memory, by the kernel's own hand and by limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import chaos
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
