"""Which spans a fault hit: those of the processes it was aimed at that were open while it was in force."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from aiobs import names
from aiobs.agent.exits import stat_fields
from aiobs.agent.metrics import Metrics
from aiobs.agent.work import Work
from aiobs.clock import monotonic_ns, wall_ns
from aiobs.errors import RecordError
from aiobs.fault_notes import FOLDER, KEPT_NS, FaultNote, read_notes, remove_note


class FaultLinks:
    """Keeps the notes of the runtime directory in mind, and tells each process what hit it."""

    def __init__(self, runtime: Path, metrics: Metrics) -> None:
        """`metrics`: of the host; says which faults are active."""
        self._runtime, self._metrics = runtime, metrics
        self._folder = runtime / FOLDER
        self._seen = 0
        self._notes: dict[str, FaultNote] = {}

    def turn(self, works: Collection[Work]) -> None:
        """Look for new notes."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except OSError:
            return
        if changed != self._seen:
            self._seen = changed
            self._notes = {note.fault: note for note in read_notes(self._runtime)}
        elif not self._notes:
            return
        for note in list(self._notes.values()):
            self._look_at(note)
        for work in works:
            with contextlib.suppress(RecordError):
                work.aimed_at([it for it in self._notes.values() if work.identity in it.processes])

    def _look_at(self, note: FaultNote) -> None:
        now = monotonic_ns()
        end = note.end_ns
        if not end and stat_fields(note.holder[0])[1] != note.holder[1]:
            # Whoever held it is gone, and has not come to say so: it is over by now.
            end = now
        attributes = ((names.FAULT_ID, note.fault), (names.FAULT_KIND, note.kind))
        if not end:
            self._metrics.set(names.FAULT_ACTIVE, 1, wall_ns(), attributes)
            return
        if end != note.end_ns:
            self._notes[note.fault] = replace(note, end_ns=end)
        self._metrics.set(names.FAULT_ACTIVE, 0, wall_ns(), attributes)
        if now - end > KEPT_NS:
            remove_note(self._runtime, note.fault)
            del self._notes[note.fault]
            self._metrics.drop(names.FAULT_ACTIVE, attributes)
