"""What tests of faults look at: processes and their states, the injector of a session and its watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity, all_processes, stat_fields
from aiobs.chaos.place import read_owner


def state_of(pid: int) -> str:
    """State letter of a process, "" where it is gone."""
    fields = stat_fields(pid)
    return fields[0] if fields and fields[0] not in "ZX" else ""


def eventually(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Wait until `condition` holds; false where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


def injector_of(place: Path) -> ProcessIdentity:
    """The injector of the only session there is."""
    (session,) = (place / "sessions").iterdir()
    owner = read_owner(session)
    assert owner is not None
    return owner.process()


def watchdogs_of(injector: ProcessIdentity) -> list[ProcessIdentity]:
    """The injector's children that run its own program, dead ones left out."""
    return [it for it in all_processes() if it.parent() == injector.pid and b"aiobs.chaos.injector" in _line(it.pid)]


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
