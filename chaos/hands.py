"""What an injector acts with: tools of the kernel that it starts, and workers before they have their own mark.

An injector that is killed leaves them behind, and one that acts after everything has been undone would leave a fault
that nobody knows of. So each carries the session's name in its environment, from the moment it is forked, and whoever
undoes in the injector's place ends them first.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .identity import ProcessIdentity, all_processes

SESSION = "AIOBS_CHAOS_SESSION"
"""Stands in the environment of an injector and of everything it starts."""
WORKER = "AIOBS_CHAOS_WORKER"
"""Stands besides in that of workers, whose own undoing ends them."""


def end_hands(session: str, patience_s: float = 2.0) -> list[str]:
    """Kill what the injector of a session was acting with when it died, and wait until it is gone.

    Returns:
        What cannot be killed, one sentence each.
    """
    deadline = time.monotonic() + patience_s
    while left := list(_hands(session)):
        for process in left:
            process.send(signal.SIGKILL)
        if time.monotonic() > deadline:
            return [f"{it}, which the injector had started, cannot be killed" for it in left]
        time.sleep(0.001)
    return []


def _hands(session: str) -> Iterator[ProcessIdentity]:
    for process in all_processes():
        variables = process.variables()
        if variables.get(SESSION) != session or WORKER in variables or process.pid == os.getpid():
            continue
        if not _carries_telemetry(process):
            yield process


def _carries_telemetry(process: ProcessIdentity) -> bool:
    """Whether it is an agent: the injector's own recording may have been the first on this host."""
    try:
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(it) for word in line for it in (b"aiobs.agent", b"aiobs.device"))
