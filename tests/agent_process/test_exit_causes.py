"""How a process ended is read from the kernel: code, signal, OOM kill; reaped or not."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs.agent.cgroup import OomCounter, OomCounters, counter_files
from aiobs.agent.exits import Exit, Watch, stat_fields

ENDINGS = [
    ("os._exit(0)", Exit("exit", 0)),
    ("os._exit(7)", Exit("exit", 7)),
    ("raise SystemExit(3)", Exit("exit", 3)),
    ("os.kill(os.getpid(), 9)", Exit("signal", None, "SIGKILL")),
    ("os.kill(os.getpid(), 15)", Exit("signal", None, "SIGTERM")),
    ("os.abort()", Exit("signal", None, "SIGABRT")),
    ("import ctypes; ctypes.string_at(0)", Exit("signal", None, "SIGSEGV")),
]


def start(code: str) -> subprocess.Popen[bytes]:
    """A process that runs `code` once a line arrives on its standard input."""
    program = (
        f"import os, sys, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nsys.stdin.readline()\n{code}\n"
    )
    return subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def watch(process: subprocess.Popen[bytes]) -> Watch:
    return Watch(process.pid, stat_fields(process.pid)[1], lambda: True)


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.close()


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
@pytest.mark.parametrize(("code", "expected"), ENDINGS, ids=[code.split(";")[0] for code, _ in ENDINGS])
def test_a_death_is_seen_and_its_cause_named(code: str, expected: Exit, reaped: bool) -> None:
    process = start(code)
    watched = watch(process)
    assert watched.ended() is None
    before = time.monotonic_ns()
    go(process)
    if reaped:
        process.wait(10)
    else:
        select.select([watched.descriptor], [], [], 10)
    found = watched.ended()
    watched.close()
    process.wait(10)
    assert found is not None
    if reaped and found.cause == "unknown":
        pytest.skip("this kernel (before 6.15) forgets the status of a reaped process")
    assert (found.cause, found.code, found.signal) == (expected.cause, expected.code, expected.signal)
    assert before < found.time_ns <= time.monotonic_ns()


def test_a_process_gone_before_anyone_watched_has_an_unknown_end() -> None:
    process = start("")
    ticks = stat_fields(process.pid)[1]
    go(process)
    process.wait(10)
    assert Watch(process.pid, ticks, lambda: False).ended() == Exit()


def test_a_later_process_of_the_same_pid_is_not_mistaken_for_it() -> None:
    assert Watch(os.getpid(), 1, lambda: False).ended() == Exit()


def test_a_process_of_another_namespace_lives_as_long_as_its_record_is_locked() -> None:
    locked = [True]
    watched = Watch(1 << 30, 1, lambda: locked[0])
    assert watched.ended() is None
    locked[0] = False
    found = watched.ended()
    assert found is not None
    assert found.cause == "unknown"
    assert found.time_ns > 0


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup v1 memory group of 48 MiB."""
    files = counter_files(os.getpid())
    group = files[0].parent / f"aiobs-test-{os.getpid()}"
    if files[0].name != "memory.oom_control":
        pytest.skip("needs cgroup v1 with the memory controller")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(48 << 20))
    except OSError as error:
        pytest.skip(f"needs the right to make control groups: {error}")
    yield group
    deadline = time.monotonic() + 5
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_oom_kill_is_told_from_any_other_sigkill(memory_group: Path) -> None:
    counters = OomCounters()
    ends = []
    for code in ("held = [bytearray(1 << 20) for _ in range(200)]", "os.kill(os.getpid(), 9)"):
        process = start(code)
        (memory_group / "cgroup.procs").write_text(str(process.pid))
        watched = watch(process)
        watched.oom = counters.of(process.pid)
        go(process)
        assert process.wait(20) == -signal.SIGKILL
        ends.append(watched.ended())
        watched.close()
    assert [(end.cause, end.signal) for end in ends if end] == [("oom_kill", "SIGKILL"), ("signal", "SIGKILL")]


def test_one_kill_is_claimed_once_and_forgotten_when_nobody_claims_it(tmp_path: Path) -> None:
    file = tmp_path / "memory.events"
    file.write_text("low 0\noom 1\noom_kill 3\noom_group_kill 0\n")
    now = [0.0]
    counter = OomCounter([file], clock=lambda: now[0])
    assert not counter.claim()
    file.write_text("oom_kill 4\n")
    assert counter.claim()
    assert not counter.claim()
    file.write_text("oom_kill 5\n")
    counter.settle()
    now[0] = 3.0
    counter.settle()
    assert not counter.claim(), "a kill seen three seconds ago hit somebody else"


def test_kills_between_two_agents_are_claimed_by_the_second(tmp_path: Path) -> None:
    file = tmp_path / "memory.oom_control"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    first = OomCounters()
    first.restore({str(file): 0})
    kept = first.baselines()
    file.write_text("oom_kill 1\n")
    second = OomCounters()
    second.restore(kept)
    assert OomCounter([file], kept[str(file)]).claim()
