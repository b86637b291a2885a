"""A machine on which faults may be injected: a chaos folder, a runtime directory and a run folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .chaos_scene import eventually, world


@pytest.fixture(autouse=True)
def chaos_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Armed, marked as a test environment, with everything kept in the test's folder."""
    place = tmp_path / "chaos"
    for name, value in {
        "AIOBS_CHAOS": "armed",
        "AIOBS_ENVIRONMENT": "test",
        "AIOBS_CHAOS_DIR": str(place),
        "AIOBS_RUNTIME_DIR": str(tmp_path / "runtime"),
        "AIOBS_RUN_DIR": str(tmp_path / "run"),
        "AIOBS_AGENT_LINGER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return place


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Every test leaves the machine as it found it."""
    before = world()
    yield
    assert eventually(lambda: world() == before, 3), {
        key: (before[key], value) for key, value in world().items() if value != before[key]
    }


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does a little work all the time."""
    process = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0.01)"])
    yield process
    process.kill()
    process.wait()


EXPERIMENT = """
import sys, time
from aiobs import chaos
with chaos.inject(sys.argv[1], sys.argv[2], duration_s=60):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def experiment() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start an experiment in a process of its own: ``experiment("process.pause", "pid:1")``; returns once it holds."""
    started: list[subprocess.Popen[str]] = []

    def start(fault: str, target: str, script: str = EXPERIMENT) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, fault, target], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
