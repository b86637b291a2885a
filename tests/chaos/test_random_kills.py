"""Whoever is killed at whatever moment: after recovery the machine is as it was.

``AIOBS_TRIALS=500 pytest tests/chaos/test_random_kills.py`` runs so many trials in all, ``AIOBS_SEED`` chooses them.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiobs import chaos
from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.place import read_owner

from .chaos_scene import eventually, watchdogs_of, world

TRIALS = int(os.environ.get("AIOBS_TRIALS", "0"))
SEED = int(os.environ.get("AIOBS_SEED", "1"))
ROOT = os.geteuid() == 0
WHO = ("experiment", "injector", "watchdog", "injector and watchdog", "everybody")
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)

EXPERIMENT = """
import json, sys
from aiobs import chaos
from aiobs.errors import AiobsError, FaultError
told = json.loads(sys.argv[1])
try:
    with chaos.inject(told["fault"], told["target"], duration_s=0.3, effect_s=0.3, **told["parameters"]) as it:
        print("held", flush=True)
        it.wait(2)
except AiobsError as error:
    print("invalid" if isinstance(error, FaultError) else "refused", error, flush=True)
"""
VICTIM = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
server.setblocking(False)
print(server.getsockname()[1], flush=True)
held = []
while True:
    try:
        with socket.create_connection(("127.0.0.1", server.getsockname()[1]), 0.02):
            server.accept()[0].close()
    except OSError:
        pass
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass
"""


@dataclass
class Scene:
    """What faults of a trial are aimed at: a process with a port, a folder of checkpoints, a small disk."""

    pid: int
    port: int
    folder: Path
    disk: Path

    def state(self) -> dict[str, object]:
        """What no part of :func:`world` shows: files, limits of the process."""
        files = {
            str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for folder in (self.folder, self.disk) for path in folder.iterdir()
        }  # fmt: skip
        try:
            limits = [resource.prlimit(self.pid, it) for it in LIMITS]
        except ProcessLookupError:
            limits = []
        return {"files": files, "limits": limits}


CASES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("noop", "pid:{pid}", {}, False),
    ("process.pause", "pid:{pid}", {}, False),
    ("process.kill", "pid:{pid}", {}, False),
    ("process.slow", "pid:{pid}", {"share": 0.2, "how": "turns"}, False),
    ("process.slow", "pid:{pid}", {"share": 0.2, "how": "quota"}, True),
    ("process.freeze", "pid:{pid}", {}, True),
    ("process.storm", "pid:{pid}", {"every_s": 0.1}, False),
    ("process.exhaust", "pid:{pid}", {"what": "files"}, False),
    ("process.exhaust", "pid:{pid}", {"what": "tasks"}, True),
    ("memory.limit", "pid:{pid}", {}, False),
    ("network.partition", "pid:{pid}", {"port": "{port}", "peer": "127.0.0.1"}, True),
    ("network.reset", "pid:{pid}", {"port": "{port}", "peer": "127.0.0.1"}, True),
    ("network.loss", "pid:{pid}", {"port": "{port}", "peer": "127.0.0.1"}, True),
    ("disk.full", "path:{disk}", {}, True),
    ("disk.full", "pid:{pid}", {"how": "limit", "spare_bytes": 4096}, False),
    ("checkpoint.tear", "path:{folder}", {}, False),
    ("checkpoint.corrupt", "path:{folder}", {}, False),
    ("service.down", "service:127.0.0.1:{port}", {"how": "pause"}, False),
    ("service.down", "service:127.0.0.1:{port}", {"how": "kill"}, False),
    ("service.down", "service:127.0.0.1:{port}", {"how": "refuse"}, True),
    ("service.down", "service:127.0.0.1:{port}", {"how": "drop"}, True),
    ("telemetry.down", "pid:{pid}", {}, True),
    ("clock.skew", "pid:{pid}", {}, False),
]
"""Fault, target, parameters, and whether it needs root."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    if ROOT:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=True)
    yield path
    if ROOT:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    ("fault", "target", "parameters", "root"),
    CASES,
    ids=[f"{it[0]} {' '.join(map(str, it[2].values()))}".strip() for it in CASES],
)
def test_nothing_is_left_whoever_is_killed_when(
    tmp_path: Path, chaos_place: Path, disk: Path, fault: str, target: str, parameters: dict[str, Any], root: bool
) -> None:
    if root and not ROOT:
        pytest.skip("needs root")
    random = Random(f"{SEED}:{fault}:{parameters}")
    outcomes: dict[str, int] = {}
    for number in range(max(1, round(TRIALS / len(CASES)))):
        folder = tmp_path / f"trial{number}"
        folder.mkdir()
        (folder / "step1.pt").write_bytes(random.randbytes(1 << 20))
        offset = folder / "offset"
        offset.write_text("+0\n")
        os.utime(offset, (1000, 1000))
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **_faketime(offset, fault)},
        )  # fmt: skip
        try:
            assert victim.stdout is not None
            scene = Scene(victim.pid, int(victim.stdout.readline()), folder, disk)
            if fault == "telemetry.down":  # the variable must be in the environment from the start
                victim.kill()
                victim.communicate()
                victim = subprocess.Popen(
                    [sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                    env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{scene.port}"},
                )  # fmt: skip
                scene.pid = victim.pid
            before, state = world(), scene.state()
            said = _trial(random, chaos_place, scene, fault, target, parameters)
            outcomes[said] = outcomes.get(said, 0) + 1
            assert eventually(partial(_gone, before, scene), 6), (number, said, _left(before, scene))
            after = scene.state()
            alive = after["limits"] != []
            assert after["files"] == state["files"], (number, said)
            assert not alive or after["limits"] == state["limits"], (number, said)
            assert chaos.recover() == []
            assert not list((chaos_place / "sessions").iterdir()), (number, said)
        finally:
            victim.kill()
            victim.communicate()
            shutil.rmtree(folder)
    print(fault, parameters, outcomes)


def _trial(random: Random, place: Path, scene: Scene, fault: str, target: str, parameters: dict[str, Any]) -> str:
    places = {"pid": scene.pid, "port": scene.port, "folder": scene.folder, "disk": scene.disk}
    told = {
        "fault": fault, "target": target.format(**places),
        "parameters": {key: it.format(**places) if isinstance(it, str) else it for key, it in parameters.items()},
    }  # fmt: skip
    experiment = subprocess.Popen(
        [sys.executable, "-c", EXPERIMENT, json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    who, wait_s = random.choice(WHO), random.uniform(0, 0.8)
    sessions = place / "sessions"
    eventually(lambda: sessions.is_dir() and list(sessions.iterdir()), 10)
    time.sleep(wait_s)
    injector = _injector(sessions)
    hit: list[ProcessIdentity] = []
    if injector is not None and who != "experiment":
        dogs = watchdogs_of(injector)
        hit = {"injector": [injector], "watchdog": dogs}.get(who, [*dogs, injector])
    for process in hit:  # together: none of them may act on the death of the other
        process.send(signal.SIGSTOP)
    for process in hit:
        process.send(signal.SIGKILL)
    if who in ("experiment", "everybody"):
        experiment.kill()
    output, _ = experiment.communicate(timeout=40)
    if injector is not None:
        assert eventually(lambda: not injector.is_alive(), 15)
    chaos.recover()
    return f"{who}, {output.split()[0] if output else 'before it was held'}"


def _injector(sessions: Path) -> ProcessIdentity | None:
    for session in sessions.iterdir():
        owner = read_owner(session)
        if owner is not None:
            return owner.process()
    return None


def _gone(before: dict[str, object], scene: Scene) -> bool:
    return not _left(before, scene)


def _left(before: dict[str, object], scene: Scene) -> dict[str, object]:
    """What differs from `before`; of processes only those of this test: others may test on the same machine."""
    now = world()
    found = {
        key: (before[key], it) for key, it in now.items() if key not in ("stopped", "workers") and before[key] != it
    }
    if scene.pid in now["stopped"]:  # type: ignore[operator]
        found["stopped"] = scene.pid
    place = os.environ["AIOBS_CHAOS_DIR"]
    workers = [it for it in all_processes() if it.variables().get("AIOBS_CHAOS_DIR") == place and it.pid != os.getpid()]
    found |= {"workers": left} if (left := [it.pid for it in workers if it.pid != scene.pid]) else {}
    return found


def _faketime(offset: Path, fault: str) -> dict[str, str]:
    if fault != "clock.skew":
        return {}
    # The fault looks at the environment only; that a program's clock follows is shown elsewhere.
    return {
        "LD_PRELOAD": "libfaketime-is-not-there.so.1", "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
