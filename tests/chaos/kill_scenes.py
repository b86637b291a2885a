"""What faults are aimed at while somebody is killed, and what must look the same afterwards."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from aiobs.chaos.testbed import Testbed
from aiobs.device.fake.state import FakeGpus

from .chaos_scene import eventually
from .kill_cases import DISK, KillCase

ROOT = os.geteuid() == 0
_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)

PROGRAM = """
import os, socket, sys, threading, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.setblocking(False)
print(server.getsockname()[1], flush=True)
ports = [server.getsockname()[1], *map(int, sys.argv[2:])]
while True:
    for port in ports:
        try:
            with socket.create_connection(("127.0.0.1", port), 0.02) as it:
                it.sendall(b"x")
            while True:
                server.accept()[0].close()
        except OSError:
            pass
    try:
        for name in os.listdir(os.environ["FOLDER"]):
            with open(os.path.join(os.environ["FOLDER"], name), "rb") as file:
                file.read()
    except OSError:
        pass
    try:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    except (RuntimeError, MemoryError):
        pass
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass
"""
GROWING = """
import time
held = []
print(0, flush=True)
while True:
    try:
        held.append(bytearray(1 << 18))
    except MemoryError:
        pass
    time.sleep(0.005)
    if len(held) > 1000:
        held.clear()
"""
POINTS = """
import os, sys, time
import aiobs
aiobs.init(service_name="victim", agent="off")
fresh, said = sys.argv[1] + ".new", sys.argv[1]
hits = 0
while True:
    began = time.monotonic()
    try:
        with aiobs.step(60):
            value = repr(aiobs.point("work", 1.0))
    except (Exception, MemoryError) as error:
        value = type(error).__name__
    hits += 1
    with open(fresh, "w") as file:
        file.write(f"{hits} {value}")
    os.replace(fresh, said)
    if hits == 1:
        print(0, flush=True)
    time.sleep(0.005)
"""
SERVER = """
import socket
server = socket.create_server(("", 5000))
print(0, flush=True)
while True:
    with server.accept()[0] as it:
        it.settimeout(0.05)
        try:
            it.recv(1)
        except OSError:
            pass
"""
CLIENT = """
import socket, time
print(0, flush=True)
while True:
    try:
        with socket.create_connection(("b", 5000), 0.05) as it:
            it.sendall(b"x")
    except OSError:
        pass
    time.sleep(0.005)
"""


class Scene:
    """A process with a port and folders; renewed for every trial, as some faults kill it.

    Attributes:
        pid, port, free, folder, disk, run, bed: what texts of cases name.
    """

    script = PROGRAM

    def __init__(self, folder: Path, disk: Path, random: Random) -> None:
        self.folder, self.disk = folder, disk
        self.pid = self.port = 0
        self.bed = ""
        self.free = _free_port()
        self.run = f"run{random.getrandbits(32):x}"
        self._process: subprocess.Popen[str] | None = None
        (folder / "step1.pt").write_bytes(random.randbytes(1 << 18))

    def renew(self) -> None:
        """See to it that everything is there."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-c", self.script, *self.arguments()], stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env={**os.environ, "FOLDER": str(self.folder), **self.variables()},
            )  # fmt: skip
            assert self._process.stdout is not None
            self.pid, self.port = self._process.pid, int(self._process.stdout.readline())

    def arguments(self) -> list[str]:
        """What the program is told."""
        return ["0", str(self.free)]

    def variables(self) -> dict[str, str]:
        """What stands in its environment besides."""
        return {}

    def told(self, case: KillCase) -> tuple[str, str, dict[str, object]]:
        """Fault, target and parameters of a case, aimed at this."""
        places = {name: getattr(self, name) for name in ("pid", "port", "free", "folder", "disk", "run", "bed")}
        fill = {key: it.format(**places) if isinstance(it, str) else it for key, it in case.parameters.items()}
        return case.fault, case.target.format(**places), fill

    def state(self) -> dict[str, object]:
        """What no part of :func:`chaos_scene.world` shows: files, limits of the process."""
        files = {
            str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for folder in (self.folder, self.disk) for path in folder.iterdir() if not path.name.startswith("said")
        }  # fmt: skip
        return {"files": files, "limits": self._limits()}

    def left(self, state: dict[str, object]) -> dict[str, object]:
        """What differs from a :meth:`state` of before; of a process that has been killed nothing can."""
        now = self.state()
        if now["limits"] == []:
            now["limits"] = state["limits"]
        return {key: (value, now[key]) for key, value in state.items() if now[key] != value}

    def _limits(self) -> list[tuple[int, int]]:
        if self._process is None or self._process.poll() is not None:
            return []
        return [resource.prlimit(self.pid, it) for it in _LIMITS]

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Growing(Scene):
    """A process that takes ever more memory."""

    script = GROWING


class Exporting(Scene):
    """A program whose OTLP endpoint stands in its environment."""

    def __init__(self, folder: Path, disk: Path, random: Random) -> None:
        super().__init__(folder, disk, random)
        self._listens = _free_port()

    def arguments(self) -> list[str]:
        return [str(self._listens)]

    def variables(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._listens}"}


class FakeTime(Scene):
    """A program under libfaketime, as the fault sees it: that its clock follows is shown elsewhere."""

    def variables(self) -> dict[str, str]:
        offset = self.folder / "offset"
        offset.write_text("+0\n")
        os.utime(offset, (1000, 1000))
        return {
            "LD_PRELOAD": "libfaketime-is-not-there.so.1", "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip


class Points(Scene):
    """A rank that goes through its points all the time, and says what it got there."""

    script = POINTS

    def arguments(self) -> list[str]:
        return [str(self.folder / "said")]

    def variables(self) -> dict[str, str]:
        return {"RANK": "0", "AIOBS_RUN_ID": self.run}

    def state(self) -> dict[str, object]:
        armed = Path(os.environ["AIOBS_RUNTIME_DIR"]) / "points"
        return {
            **super().state(),
            "armed": sorted(it.name for it in armed.iterdir()) if armed.is_dir() else [],
            "at the point": self._heard(),
        }

    def _heard(self) -> str:
        """What the process gets at its point from now on."""
        if self._process is None or self._process.poll() is not None:
            return "1.0"
        before = self._said()[0]
        eventually(lambda: self._said()[0] > before + 1 or self._process.poll() is not None, 3)
        hits, value = self._said()
        return value if hits > before + 1 else "it does not get there"

    def _said(self) -> tuple[int, str]:
        hits, _, value = (self.folder / "said").read_text().partition(" ")
        return int(hits), value


class Gpus(Scene):
    """A program that is told of fake GPUs."""

    def variables(self) -> dict[str, str]:
        folder = self.folder / "said-gpus"
        folder.mkdir(exist_ok=True)
        self._gpus = FakeGpus.create(folder, 2)
        return {"AIOBS_FAKE_GPU": str(self._gpus.path)}

    def state(self) -> dict[str, object]:
        return {**super().state(), "readings": [bytes(it) for it in self._gpus.state.gpus]}


class Bed(Scene):
    """Two nodes of a testbed: a asks b all the time."""

    def __init__(self, folder: Path, disk: Path, random: Random) -> None:
        super().__init__(folder, disk, random)
        self._bed = Testbed(2)
        self.bed = self._bed.name
        self._programs: dict[str, subprocess.Popen[str]] = {}

    def renew(self) -> None:
        for node, script in (("b", SERVER), ("a", CLIENT)):
            old = self._programs.get(node)
            if old is None or old.poll() is not None:
                if old is not None:
                    old.communicate()
                program = self._bed[node].start([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
                assert program.stdout is not None
                assert program.stdout.readline() == "0\n"
                self._programs[node] = program

    def state(self) -> dict[str, object]:
        asked = {"rules": "nft list ruleset", "qdiscs": "tc qdisc show", "links": "ip -o link", "routes": "ip route"}
        script = "; ".join(f"echo {name}; {command}" for name, command in asked.items())
        return {**super().state(), **{it.name: it.run(["sh", "-c", script]).stdout for it in self._bed.nodes}}

    def close(self) -> None:
        self._bed.close()
        for it in self._programs.values():
            it.communicate()


KINDS: dict[str, type[Scene]] = {
    "program": Scene, "growing": Growing, "exporting": Exporting, "faketime": FakeTime, "points": Points, "gpu": Gpus,
    "bed": Bed,
}  # fmt: skip
"""By the names that cases use."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MiB: our own as root, else the one AIOBS_TEST_DISK names, else none: a plain folder."""
    if DISK:
        yield Path(DISK)
        return
    folder.mkdir()
    if not ROOT:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _free_port() -> int:
    """Below those that connections take for their own end: nobody has it by chance when the fault begins."""
    for port in range(20000 + os.getpid() % 9000, 32000):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port is free")


def scene(kind: str, folder: Path, disk: Path, random: Random) -> Any:
    """A scene of that kind; :meth:`Scene.close` it."""
    folder.mkdir()
    return KINDS[kind](folder, disk, random)
