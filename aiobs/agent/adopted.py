"""A flight record that the agent has taken into its care, from the first look to its deletion."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from aiobs.agent.cgroup import OomCounters
from aiobs.agent.exits import EXIT, Exit, Watch
from aiobs.agent.pipeline import Pipeline
from aiobs.agent.reader import FlightReader
from aiobs.clock import monotonic_ns
from aiobs.guard import say_once

SETTLE_S = 10.0
"""A record closed in order waits so long for the process to end, whose exit code is then known. A large program
takes seconds to end after its last line."""


def record_identity(reader: FlightReader) -> str:
    """Names a record for the journal: the file's name, and when it was made (names come again after exec)."""
    return f"{reader.key}@{reader.created_ns}"


class Adopted:
    """One flight record.

    Attributes:
        identity: see :func:`record_identity`.
        done: everything in it has been assembled; with the next commit it may be deleted.
    """

    def __init__(self, reader: FlightReader, pipeline: Pipeline, ooms: OomCounters) -> None:
        self.reader, self.pipeline = reader, pipeline
        self.identity = record_identity(reader)
        self.done = False
        self._inode = _inode(reader.path)
        self._closed_at: float | None = None
        self._ending: Exit | None = None
        self._ooms = ooms
        self._counted: dict[str, int] = {}
        self._ours = reader.own_process()
        self.watch = Watch(reader.pid, reader.start_ticks, reader.alive, ours=self._ours)
        self.refresh_group()
        pipeline.records += 1

    def refresh_group(self) -> None:
        """Look again in which control group the process is."""
        if self.watch.descriptor >= 0 and not self.watch.over:
            self.watch.oom = self._ooms.of(self.reader.pid)

    def end(self) -> Exit | None:
        """How the process ended, as it was first seen; None while there may be more to read."""
        self._ending = self._ending or self._look()
        return self._ending

    def _look(self) -> Exit | None:
        found = self.watch.ended()
        if found is not None:
            if found.cause == "unknown" and self.reader.closed():
                return Exit(EXIT, self.reader.exit_code(), "", found.time_ns)
            return found
        if self.reader.closed():
            self._closed_at = self._closed_at or time.monotonic()
            code = self.reader.exit_code()
            if code is not None or self._ours or time.monotonic() - self._closed_at > SETTLE_S:
                return Exit(EXIT, code, "", monotonic_ns())
        elif self.replaced() or self.watch.abandoned():
            return Exit(EXIT, None, "", monotonic_ns())
        return None

    def count(self) -> None:
        """Tell the pipeline what the record counts: lost records, faults of the recorder, …"""
        counters = self.reader.counters()
        self.pipeline.counted.update({name: number - self._counted.get(name, 0) for name, number in counters.items()})
        self._counted = counters
        if counters["lost"]:
            say_once(f"lost:{self.reader.path}", "aiobs: process %d records faster than can be exported; records were lost, raise AIOBS_RING_BYTES", self.reader.pid)  # fmt: skip

    def replaced(self) -> bool:
        """Whether the file of that name is not this one any more."""
        return _inode(self.reader.path) != self._inode

    def release(self, *, delete: bool) -> None:
        """Let go of the record, and delete it if asked to."""
        self.watch.close()
        self.pipeline.records -= 1
        if delete and not self.replaced():
            with contextlib.suppress(OSError):
                self.reader.path.unlink()
        self.reader.close()


def _inode(path: Path) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except OSError:
        return 0
