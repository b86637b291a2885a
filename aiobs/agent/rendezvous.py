"""The hosts of one run tell each other which steps they keep for a reason of their own.

The meeting place is the run folder, where the hosts share one: each agent appends to a file of its own in
``keep/`` and reads the others'. A host that hears of a step too late no longer has it; such a step stays partial.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

EVERY_S = 0.5
FOLDER = "keep"
_LINE = re.compile(rb"([0-9a-f]{32}) ([a-z]{1,16})\n")
READ_BYTES = 1 << 16


class Rendezvous:
    """One agent's part in it."""

    def __init__(self, run_dir: Path, own: str | None = None) -> None:
        """`own` names this agent among all of the run; by default by host, process and time."""
        self._folder = run_dir / FOLDER
        self._own = own or f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}"
        self._read: dict[str, int] = {}
        self._due = 0.0

    def tell(self, trace: bytes, reason: str) -> None:
        """Say that the step with this trace id is kept here."""
        with contextlib.suppress(OSError):  # a folder that is gone or full: the step stays partial, and says so
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / self._own).open("ab", buffering=0) as file:
                file.write(f"{trace.hex()} {reason}\n".encode())

    def hear(self) -> list[tuple[bytes, str]]:
        """Steps others have named since the last call: trace id and reason. Looks twice a second at most."""
        now = time.monotonic()
        if now < self._due:
            return []
        self._due = now + EVERY_S
        heard: list[tuple[bytes, str]] = []
        try:
            others = [name for name in os.listdir(self._folder) if name != self._own]
        except OSError:
            return []
        for name in others:
            with contextlib.suppress(OSError):
                heard += self._new_of(name)
        return heard

    def _new_of(self, name: str) -> list[tuple[bytes, str]]:
        start = self._read.get(name, 0)
        with (self._folder / name).open("rb") as file:
            file.seek(start)
            text = file.read(READ_BYTES)
        whole = text.rfind(b"\n") + 1
        self._read[name] = start + whole
        return [(bytes.fromhex(trace.decode()), reason.decode()) for trace, reason in _LINE.findall(text[:whole])]
