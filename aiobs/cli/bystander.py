"""Tells a signal sent to the launcher alone from one that its whole process group has got.

Shells (``kill %1``), batch systems and service managers often signal every process of a job. A launcher that
passed such a signal on would deliver it twice, and programs count: a second SIGTERM makes torchrun drop its
orderly end. The kernel does not say to whom a signal was sent, so a bystander is asked: a process of the same
group that does nothing and blocks all signals, whose list of pending ones shows what the group has got.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PATIENCE_S = 0.02
"""Who signals one process after the other gets so long for the bystander's turn to come."""
_WAITER = ("/bin/cat", "/usr/bin/cat")


class Bystander:
    """A process that waits for this one to end, whatever way, and for nothing else."""

    def __init__(self) -> None:
        self._pid = 0
        self._start()

    def _start(self) -> None:
        program = next((path for path in _WAITER if os.access(path, os.X_OK)), None)
        if program is None:
            return
        # It reads from a pipe whose other end only this process has: when we die, it ends.
        self._read, self._write = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, self._read, 0),
            *((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)),
        ]
        try:
            self._pid = os.posix_spawn(
                program, ["aiobs-bystander"], {}, file_actions=actions, setsigmask=signal.valid_signals()
            )
        except OSError:
            os.close(self._write)
        finally:
            os.close(self._read)

    def got(self, number: int) -> bool:
        """Whether the group has got signal `number` as well."""
        deadline = time.monotonic() + PATIENCE_S
        while self._pid:
            if _pending(self._pid) >> (number - 1) & 1:
                # A pending signal stays pending, so the next one of its kind needs a fresh bystander.
                self.close()
                self._start()
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        return False

    def close(self) -> None:
        """End it."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._write)
            self._pid = 0


def _pending(pid: int) -> int:
    """The signals that wait for process `pid`, as bits."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("ShdPnd:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0
