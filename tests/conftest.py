"""A clean world for every test: no telemetry settings of ours or anybody's, a runtime directory of its own,
and no process of ours left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import aiobs
from aiobs.recorder import is_recording

FOREIGN = ("AIOBS_", "OTEL_", "TRACEPARENT", "TRACESTATE", "TORCHELASTIC_", "SLURM_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Strip what would change telemetry; our own faults raise; agents end with the test that started them."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name != "AIOBS_PURE":  # says which recorder the whole session tests
            monkeypatch.delenv(name)
    runtime_dir = tmp_path_factory.mktemp("runtime") / "aiobs"
    monkeypatch.setenv("AIOBS_RAISE", "1")
    monkeypatch.setenv("AIOBS_RUNTIME_DIR", str(runtime_dir))
    yield
    left_on = is_recording()
    if left_on:
        aiobs.shutdown()
    end_agents(runtime_dir)
    assert not left_on, "this test left recording on, for all that come after it: call aiobs.shutdown()"


@pytest.fixture
def runtime_dir() -> Path:
    """The runtime directory of this test; made by whoever first needs it."""
    return Path(os.environ["AIOBS_RUNTIME_DIR"])


def end_agents(runtime_dir: Path) -> None:
    """Terminate the agents that serve `runtime_dir`, and wait until they are gone."""
    agents = list(agents_of(runtime_dir))
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for pid in agents:
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        deadline = time.monotonic() + 5
        while agents and time.monotonic() < deadline:
            time.sleep(0.01)
            agents = [pid for pid in agents if is_running(pid)]


def agents_of(runtime_dir: Path) -> Iterator[int]:
    """Pids of processes that run ``aiobs.agent`` and name `runtime_dir` on their command line or environment."""
    if not runtime_dir.exists():
        return
    wanted = str(runtime_dir).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if b"aiobs.agent" in command and (wanted in command or wanted in (entry / "environ").read_bytes()):
                yield int(entry.name)


def is_running(pid: int) -> bool:
    """Whether `pid` still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False
