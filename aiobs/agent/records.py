"""The folder of flight records: what is in it, and where the unreadable ones go."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from aiobs.agent.exits import stat_fields
from aiobs.agent.reader import FlightReader
from aiobs.errors import RecordError
from aiobs.guard import say_once
from aiobs.recorder.layout import SUFFIX

DAMAGED = "damaged"
LOOK_ANYWAY_S = 5.0
"""The folder is read so often though its time of change says that nothing was added or taken away."""
FRESH_S = 0.1
"""A folder changed so lately may change again without another time: file systems tell it in clock ticks."""
ABANDONED_S = 60.0
"""A record that its writer did not finish making is removed after this, if the writer is gone."""


class RecordFolder:
    """``<runtime>/records``.

    Attributes:
        damaged: names of the records set aside.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ignored: set[tuple[str, int]] = set()
        self.damaged: list[str] = []
        self._changed_ns: int | None = None
        self._looked_at = 0.0

    def changed(self) -> bool:
        """Whether the folder may have other records than when that was last asked."""
        try:
            changed_ns = os.stat(self._path).st_mtime_ns
        except OSError:
            return True
        now = time.monotonic()
        if changed_ns == self._changed_ns and now - self._looked_at < LOOK_ANYWAY_S:
            return False
        fresh = abs(time.time() - changed_ns / 1e9) < FRESH_S
        self._changed_ns, self._looked_at = None if fresh else changed_ns, now
        return True

    def look(self) -> list[Path]:
        """The records there are, oldest first."""
        found: list[tuple[float, Path]] = []
        with contextlib.suppress(OSError):
            for item in os.scandir(self._path):
                with contextlib.suppress(OSError):
                    if item.name.endswith(SUFFIX) and (item.name, item.inode()) not in self._ignored:
                        found.append((item.stat(follow_symlinks=False).st_mtime, Path(item.path)))
                    elif item.name.endswith(".new"):
                        _remove_unfinished(Path(item.path))
        return [path for _, path in sorted(found)]

    def open(self, path: Path) -> FlightReader | None:
        """Open a record; one that cannot be used is set aside, said once."""
        try:
            return FlightReader(path)
        except RecordError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self.set_aside(path, str(error))
            return None

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a record to ``damaged/``, where nobody reads it again."""
        with contextlib.suppress(OSError):
            self._ignored.add((path.name, path.lstat().st_ino))
        self.damaged.append(path.name)
        aside = self._path / DAMAGED
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            os.replace(path, aside / path.name)
        except OSError:
            aside = self._path
        say_once(f"record:{path.name}", "aiobs: flight record left out (it is in %s): %s", aside, reason)


def _remove_unfinished(path: Path) -> None:
    pid, _, rest = path.stem.partition("-")
    if not pid.isdigit() or time.time() - path.lstat().st_mtime < ABANDONED_S:
        return
    if str(stat_fields(int(pid))[1]) != rest.partition("-")[0]:
        path.unlink()
