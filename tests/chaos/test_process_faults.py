"""Faults of processes: paused, frozen, slowed, killed, exhausted."""

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
from aiobs.chaos.identity import ProcessIdentity
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, state_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups: needs root")

BUSY = "while True: pass"
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that wants a whole core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield process
    process.kill()
    process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@pytest.mark.parametrize("how", [pytest.param("quota", marks=root), "turns"])
def test_a_slowed_process_gets_its_share(busy: subprocess.Popen[bytes], how: str) -> None:
    with chaos.inject("process.slow", f"pid:{busy.pid}", share=0.2, how=how) as injection:
        used, began = cpu_s(busy.pid), time.monotonic()
        time.sleep(1.5)
        share = (cpu_s(busy.pid) - used) / (time.monotonic() - began)
    assert injection.evidence
    assert 0.10 <= share <= 0.27
    assert eventually(lambda: state_of(busy.pid) == "R")


def test_a_tree_is_paused_with_all_its_children() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"])
    try:
        assert eventually(lambda: len(list(Path(f"/proc/{parent.pid}/task/{parent.pid}").glob("children"))) == 1)
        time.sleep(0.1)
        children = [int(it) for it in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        with chaos.inject("process.pause", f"tree:{parent.pid}"):
            assert [state_of(pid) for pid in (parent.pid, *children)] == ["T", "T", "T"]
        assert eventually(lambda: "T" not in {state_of(pid) for pid in (parent.pid, *children)})
    finally:
        for pid in (parent.pid, *children):
            os.kill(pid, signal.SIGKILL)
        parent.wait()


@root
def test_a_frozen_process_stands_still(busy: subprocess.Popen[bytes]) -> None:
    with chaos.inject("process.freeze", f"pid:{busy.pid}") as injection:
        used = cpu_s(busy.pid)
        time.sleep(0.2)
        assert cpu_s(busy.pid) == used
        assert any("FROZEN" in line or "frozen 1" in line for line in injection.evidence)
    assert eventually(lambda: cpu_s(busy.pid) > used)


def test_a_killed_process_is_gone_within_50_ms(victim: subprocess.Popen[bytes]) -> None:
    with chaos.inject("process.kill", f"pid:{victim.pid}") as injection:
        assert victim.wait(1) == -signal.SIGKILL
    assert injection.effective_ns - injection.injected_ns < 50_000_000


def test_open_files_run_out_and_come_back() -> None:
    script = """
import sys, time
for line in sys.stdin:
    try:
        open("/dev/null").close()
        print("ok", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    victim = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def opens() -> str:
        assert victim.stdin is not None
        assert victim.stdout is not None
        victim.stdin.write("\n")
        victim.stdin.flush()
        return victim.stdout.readline().strip()

    try:
        assert opens() == "ok"
        with chaos.inject("process.exhaust", f"pid:{victim.pid}", what="files"):
            assert opens() == "Too many open files"
        assert opens() == "ok"
    finally:
        victim.kill()
        victim.communicate()


@root
def test_tasks_run_out_and_come_back() -> None:
    script = """
import threading, time
while True:
    try:
        thread = threading.Thread(target=time.sleep, args=(0.01,))
        thread.start()
        thread.join()
        print("ok", flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    time.sleep(0.02)
"""
    victim = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    try:
        assert victim.stdout.readline() == "ok\n"
        with chaos.inject("process.exhaust", f"pid:{victim.pid}", what="tasks"):
            assert eventually(
                lambda: victim.stdout is not None and "can't start new thread" in victim.stdout.readline()
            )
        assert eventually(lambda: victim.stdout is not None and victim.stdout.readline() == "ok\n")
    finally:
        victim.kill()
        victim.communicate()


def test_what_a_supervisor_restarts_dies_again() -> None:
    supervisor = subprocess.Popen(["sh", "-c", "while :; do sleep 30; done"])
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
    try:
        assert eventually(lambda: children.read_text().split())
        first = int(children.read_text().split()[0])
        with chaos.inject("process.storm", f"pid:{first}", every_s=0.1) as injection:
            seen = set()
            assert eventually(lambda: len(seen) >= 4 or seen.update(children.read_text().split()), 5)
        assert "killed" in injection.evidence[0]
        last = children.read_text().split()
        time.sleep(0.3)
        assert children.read_text().split() == last
    finally:
        rest = children.read_text().split()
        supervisor.kill()
        supervisor.wait()
        for pid in rest:
            ProcessIdentity.of(int(pid)).send(signal.SIGKILL)


@pytest.mark.parametrize(
    ("fault", "parameters", "said"),
    [
        ("process.slow", {"share": 0}, "share=0.*above 0"),
        ("process.slow", {"share": "lots"}, "share='lots': use float"),
        ("process.exhaust", {"what": "luck"}, "files or tasks"),
        ("process.kill", {"signal_name": "USR1"}, "use KILL"),
        ("process.storm", {"every_s": 0}, "at least 0.05"),
        ("process.pauze", {}, "there are .*process.pause"),
    ],
)
def test_bad_parameters_are_refused_with_what_to_do(
    victim: subprocess.Popen[bytes], fault: str, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        chaos.inject(fault, f"pid:{victim.pid}", **parameters)


def test_a_target_that_is_gone_is_refused() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(PlanError, match="no process has that pid"):
        chaos.inject("process.pause", f"pid:{gone.pid}")


def test_an_idle_process_that_is_slowed_proves_nothing(victim: subprocess.Popen[bytes]) -> None:
    if os.geteuid() != 0:
        pytest.skip("makes cgroups: needs root")
    with pytest.raises(FaultError, match="not seen to act"):
        chaos.inject("process.slow", f"pid:{victim.pid}", share=0.9, how="quota", effect_s=0.3)
