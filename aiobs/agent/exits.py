"""How a recorded process ended: seen by pidfd the moment it happens, with exit code, signal or OOM kill.

A process of our pid namespace is watched by pidfd, and its status is read from the kernel: of a zombie in
``/proc/PID/stat``, of one already reaped by the ``PIDFD_GET_INFO`` ioctl (Linux 6.15). One of another
namespace lives as long as the lock on its flight record is held; how it ended cannot be known.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from aiobs.agent.cgroup import OomCounter
from aiobs.clock import monotonic_ns

EXIT, SIGNAL, OOM_KILL, UNKNOWN = "exit", "signal", "oom_kill", "unknown"

# linux/pidfd.h. The kernel fills in the status once the process has been reaped.
_PIDFD_INFO = struct.Struct("<QQIIIIIIIIIIIi")
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_PF_EXITING = 4
"""include/linux/sched.h: the process is being shut down."""
_STAT_EXIT_CODE = 49
"""Index of the wait status in /proc/PID/stat, counted behind the command's name."""


@dataclass(frozen=True)
class Exit:
    """The end of a process.

    Attributes:
        cause: exit, signal, oom_kill or unknown.
        code: the exit code, where it exited by itself and the code is known.
        signal: name of the signal that ended it (``SIGKILL``), "" where there was none.
        time_ns: when it was seen, monotonic ns; 0 where the process was gone before anyone watched.
        limit_bytes, used_bytes: of an OOM kill: the limit of the control group it was killed for, and the most that was
            used against it; 0 where the machine had no memory left.
    """

    cause: str = UNKNOWN
    code: int | None = None
    signal: str = ""
    time_ns: int = 0
    limit_bytes: int = 0
    used_bytes: int = 0

    @property
    def clean(self) -> bool:
        """Whether it ended by itself, with code 0 or one nobody could read."""
        return self.cause == EXIT and not self.code

    @property
    def kind(self) -> str:
        """What ended it, as ``error.type`` has it: the signal's name, else the cause."""
        return self.signal if self.cause == SIGNAL and self.signal else self.cause

    def __str__(self) -> str:
        if self.cause == OOM_KILL:
            return "killed for lack of memory (OOM)"
        if self.cause == SIGNAL:
            return f"killed by {self.signal}"
        if self.cause == EXIT:
            return "exited" if self.code is None else f"exited with code {self.code}"
        return "ended for an unknown reason"


def read_status(status: int, time_ns: int) -> Exit:
    """The exit that a wait status stands for."""
    if os.WIFEXITED(status):
        return Exit(EXIT, os.WEXITSTATUS(status), "", time_ns)
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIG{number}"
    return Exit(SIGNAL, None, name, time_ns)


class Watch:
    """One process, watched until it has ended.

    Attributes:
        descriptor: becomes readable when the process ends; -1 where there is none.
        oom: counts the OOM kills of the process's control group.
    """

    def __init__(
        self, pid: int, ticks: int, alive: Callable[[], bool], *, ours: bool = False, oom: OomCounter | None = None
    ) -> None:
        """Begin to watch.

        Args:
            pid, ticks: the process and its start time as its flight record names them.
            alive: whether the writer still holds the lock on its flight record.
            ours: this very process, which does not see itself end.
            oom: see the class.
        """
        self._pid, self._ticks, self._alive, self._ours = pid, ticks, alive, ours
        self.oom = oom
        self._exit: Exit | None = None
        self._poll = select.poll()
        self.descriptor = -1
        if ours:
            return
        # Opened first, checked after: from here on the descriptor means this process, not a later one.
        with contextlib.suppress(OSError, AttributeError):
            self.descriptor = os.pidfd_open(pid)
        state, found, _, _ = stat_fields(pid)
        if not state or found != ticks:
            self.close()
        self._locked = alive()
        if self.descriptor >= 0:
            self._poll.register(self.descriptor, select.POLLIN)
        elif not self._locked:
            self._exit = Exit()

    @property
    def over(self) -> bool:
        """Whether it has been seen to have ended."""
        return self._exit is not None

    def ended(self) -> Exit | None:
        """How the process ended, or None while it runs."""
        if self._exit is None and not self._ours:
            self._exit = self._look()
        return self._exit

    def abandoned(self) -> bool:
        """Whether a living process let go of its record: it has replaced itself by another program (exec)."""
        if self._ours or not self._locked or self.descriptor < 0 or self._alive():
            return False
        # A dying process closes its files shortly before it can be seen to be dead.
        state, found, flags, _ = stat_fields(self._pid)
        return found == self._ticks and state not in ("Z", "X") and not flags & _PF_EXITING

    def _look(self) -> Exit | None:
        if self.descriptor < 0:
            return None if self._alive() else Exit(time_ns=monotonic_ns())
        if not self._poll.poll(0):
            return None
        now = monotonic_ns()
        status = self._status()
        found = Exit(time_ns=now) if status is None else read_status(status, now)
        if found.signal == "SIGKILL" and self.oom is not None and self.oom.claim():
            limit, used = self.oom.limit()
            found = replace(found, cause=OOM_KILL, limit_bytes=limit, used_bytes=used)
        return found

    def _status(self) -> int | None:
        state, ticks, _, status = stat_fields(self._pid)
        if state == "Z" and ticks == self._ticks:
            return status
        content = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
        try:
            fcntl.ioctl(self.descriptor, _PIDFD_GET_INFO, content)
        except OSError:
            return None
        mask, *_, code = _PIDFD_INFO.unpack(content)
        return code if mask & _PIDFD_INFO_EXIT else None

    def close(self) -> None:
        """Stop watching."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def stat_fields(pid: int) -> tuple[str, int, int, int | None]:
    """State, start time (clock ticks), kernel flags and wait status of a process; ("", 0, 0, None): there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        fields = text[text.rindex(")") + 2 :].split()
        return fields[0], int(fields[19]), int(fields[6]), int(fields[_STAT_EXIT_CODE])
    except (OSError, ValueError, IndexError):
        return "", 0, 0, None
