"""Which process, beyond doubt: a pid together with the time it started, so that a reused pid is never hit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that was there at one moment.

    Attributes:
        pid: its pid in our pid namespace.
        start: its start time, clock ticks since boot (field 22 of ``/proc/<pid>/stat``).
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The process that has that pid now.

        Raises:
            ProcessLookupError: there is none.
        """
        fields = stat_fields(pid)
        if fields is None or fields[0] in "ZX":
            raise ProcessLookupError(pid)
        return cls(pid, int(fields[19]))

    def state(self) -> str:
        """Its state letter in ``/proc`` (R, S, D, T, …), "" where it is gone or its pid is another's now."""
        fields = stat_fields(self.pid)
        if fields is None or int(fields[19]) != self.start or fields[0] in "ZX":
            return ""
        return fields[0]

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.state() != ""

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; false where it is gone.

        Raises:
            PermissionError: it belongs to somebody else.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():  # the descriptor holds whichever process has the pid: it must be ours
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def parent(self) -> int:
        """Pid of its parent, 0 where it is gone."""
        fields = stat_fields(self.pid)
        return int(fields[1]) if fields else 0

    def user(self) -> int:
        """Its real user id, -1 where it is gone."""
        try:
            return os.stat(_PROC / str(self.pid)).st_uid
        except OSError:
            return -1

    def name(self) -> str:
        """Its command name, "" where it is gone."""
        try:
            return (_PROC / str(self.pid) / "comm").read_text("utf-8", "replace").strip()
        except OSError:
            return ""

    def variables(self) -> dict[str, str]:
        """The environment it was started with; empty where it cannot be read."""
        try:
            content = (_PROC / str(self.pid) / "environ").read_bytes()
        except OSError:
            return {}
        pairs = (item.partition(b"=") for item in content.split(b"\0") if item)
        return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, _, value in pairs}

    def __str__(self) -> str:
        return f"{self.name() or 'process'}[{self.pid}]"


def stat_fields(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on, or None where there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def all_processes() -> Iterator[ProcessIdentity]:
    """Every process there is."""
    for name in os.listdir(_PROC):
        if name.isdigit():
            try:
                yield ProcessIdentity.of(int(name))
            except ProcessLookupError:
                continue


def tree(root: ProcessIdentity) -> list[ProcessIdentity]:
    """A process and all its descendants, the root first."""
    children: dict[int, list[ProcessIdentity]] = {}
    for process in all_processes():
        children.setdefault(process.parent(), []).append(process)
    found, seen = [root], {root.pid}
    for process in found:
        for child in children.get(process.pid, ()):
            if child.pid not in seen:
                seen.add(child.pid)
                found.append(child)
    return found


def ancestors(pid: int) -> list[int]:
    """Pids of a process' parent, its parent, and so on up to 1."""
    found = []
    fields = stat_fields(pid)
    while fields is not None and int(fields[1]) > 0:
        found.append(int(fields[1]))
        fields = stat_fields(found[-1])
    return found


def boot_id() -> str:
    """Which boot of the machine this is; after another, nothing that lived in the kernel is left."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
