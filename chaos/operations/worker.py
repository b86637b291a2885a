"""Workers: processes of ours that keep a fault going (a proxy, a duty cycle, a ballast).

A worker is started with a mark of its injection in its environment, ends by itself when the injector dies
(PDEATHSIG), and writes what it has done to a status file. Undoing finds every process with the mark, whether or
not anybody got to note its pid.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobs.chaos.hands import WORKER as MARK
from aiobs.chaos.identity import ProcessIdentity, all_processes, tree
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError

PACKAGE = "aiobs.chaos.workers"
_START_S, _POLITE_S, _KILLED_S = 20.0, 0.3, 1.0


@dataclass(frozen=True)
class Run(Operation):
    """Run ``python -m aiobs.chaos.workers.<module> <JSON arguments>`` until it is undone.

    Attributes:
        name: of this worker, unique in the session; names its mark and its status file.
        arguments: JSON text of what it is told.
        folder: the session's, for the status file.
        joins: files (``cgroup.procs``) the worker is put into before it starts its work.
        enters: a network namespace's file that it enters first, "" for ours.
    """

    kind = "worker.run"

    module: str
    name: str
    arguments: str
    folder: str
    enters: str = ""
    joins: tuple[str, ...] = ()

    @property
    def status_path(self) -> Path:
        """Where it says what it has done."""
        return Path(self.folder) / f"{self.name}.status"

    def describe(self) -> str:
        return f"run {self.module} {self.arguments}" + (f" in {self.enters}" if self.enters else "")

    def describe_undo(self) -> str:
        return f"end {self.module} (every process with {MARK}={self.name})"

    def act(self, before: Before) -> None:  # noqa: ARG002
        log_path = Path(self.folder) / f"{self.name}.log"
        with open(log_path, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.{self.module}", json.dumps(self._told())],
                env={**os.environ, MARK: self.name}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while not self.status_path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = log_path.read_text("utf-8", "replace").strip().splitlines()
                raise FaultError("inject", f"{self.module} did not start: {said[-1] if said else 'it said nothing'}")
            time.sleep(0.002)

    def _told(self) -> dict[str, Any]:
        return {
            "arguments": json.loads(self.arguments), "status": str(self.status_path), "parent": os.getpid(),
            "enters": self.enters, "joins": list(self.joins),
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """What it last said, empty where it has not said anything."""
        try:
            found: Mapping[str, Any] = json.loads(self.status_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def effective(self, before: Before) -> str:  # noqa: ARG002
        return str(self.status().get("evidence", ""))

    def _processes(self) -> list[ProcessIdentity]:
        marked = [it for it in all_processes() if it.variables().get(MARK) == self.name]
        return [it for root in marked for it in tree(root)]

    def undo(self, before: Before) -> None:  # noqa: ARG002
        running = self._processes()
        for process in running:
            process.send(signal.SIGTERM)
        _wait(running, _POLITE_S)
        for process in running:
            process.send(signal.SIGKILL)
        _wait(running, _KILLED_S)  # what it was about to do is done or never will be, before others are undone
        for process in running:
            reap(process.pid)

    def residue(self, before: Before) -> str:  # noqa: ARG002
        left = self._processes()
        return f"{left[0]} still runs" if left else ""


def _wait(running: list[ProcessIdentity], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(it.is_alive() for it in running) and time.monotonic() < deadline:
        time.sleep(0.002)


def reap(pid: int) -> None:
    """Take in a worker that has ended, where we are its parent."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
