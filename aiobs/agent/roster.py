"""The flight records in the agent's care: found, adopted, read, and let go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiobs.agent.adopted import Adopted, record_identity
from aiobs.agent.cgroup import OomCounters
from aiobs.agent.pipeline import Pipeline
from aiobs.agent.records import RecordFolder
from aiobs.errors import RecordError
from aiobs.guard import swallow
from aiobs.telemetry import Route

STRETCH_RECORDS, SHORT_STRETCH_RECORDS = 16_384, 128
"""Records read from one process before the next one's turn; in a thread of the user's process."""


class Roster:
    """See the module's text.

    Attributes:
        ooms: OOM kills of the control groups of the recorded processes.
        dirty: something changed that the journal should know though nothing was read.
    """

    def __init__(
        self, folder: RecordFolder, past: dict[str, Any], pipeline_of: Callable[[Route], Pipeline],
        breathe: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        """Begin with nothing.

        Args:
            folder: where the records are.
            past: what :meth:`state` gave to the journal of an earlier agent.
            pipeline_of: the pipeline for a route, with its exporters open.
            breathe: called after each record; its presence asks for short stretches.
        """
        self.ooms = OomCounters()
        self.ooms.restore(past.get("oom", {}))
        self.dirty = False
        self._past: dict[str, list[Any]] = past.get("records", {})
        self._folder, self._pipeline_of, self._breathe = folder, pipeline_of, breathe
        self.stretch = SHORT_STRETCH_RECORDS if breathe else STRETCH_RECORDS
        self._adopted: dict[str, Adopted] = {}

    def __iter__(self) -> Iterator[Adopted]:
        return iter(self._adopted.values())

    def __len__(self) -> int:
        return len(self._adopted)

    def discover(self) -> bool:
        """Adopt the records that are new; says whether there were any."""
        if not self._folder.changed():
            return False
        before = set(self._adopted)
        known = {adopted.reader.path for adopted in self if not adopted.replaced()}
        for path in self._folder.look():
            if path not in known:
                self._adopt(path)
        self._past = {}  # whatever of it was not found by now is deleted already
        return set(self._adopted) != before

    def _adopt(self, path: Path) -> None:
        reader = self._folder.open(path)
        if reader is None:
            return
        past = self._past.pop(record_identity(reader), None)
        if past and past[1]:
            # Its last turn was committed, only the deletion is missing.
            reader.close()
            path.unlink(missing_ok=True)
            return
        if past:
            reader.position = past[0]
        adopted = Adopted(reader, self._pipeline_of(reader.route), self.ooms)
        self._adopted[adopted.identity] = adopted

    def read(self, *, patient: bool = True) -> tuple[int, bool]:
        """Take in what is new: records read, and whether a process ended.

        Args:
            patient: a process that ended may wait a moment for what is still to be known of its GPUs.
        """
        read, ended = 0, False
        for adopted in list(self):
            pipeline = adopted.pipeline
            if adopted.done or not pipeline.outlets or not pipeline.journaled:
                continue
            try:
                end = adopted.end()
                new = pipeline.assembler.add(adopted.reader, self.stretch)
                read += new
                if end is not None and (pipeline.assembler.may_end(adopted.reader, end) or not patient):
                    pipeline.assembler.process_ended(adopted.reader, end)
                    adopted.done = ended = True
                if new or end is not None:
                    adopted.count()
            except RecordError as error:
                self._give_up(adopted, str(error))
            except Exception as error:
                self._give_up(adopted, f"{type(error).__name__}: {error}")
                swallow("agent.read", error)
            if self._breathe:
                self._breathe()
        return read, ended

    def _give_up(self, adopted: Adopted, reason: str) -> None:
        self._folder.set_aside(adopted.reader.path, reason)
        adopted.pipeline.assembler.abandon(adopted.reader)
        self.release(adopted, delete=False)
        self.dirty = True

    def release(self, adopted: Adopted, *, delete: bool) -> None:
        """Let go of a record, and delete it if asked to."""
        del self._adopted[adopted.identity]
        adopted.release(delete=delete)

    def settle(self) -> None:
        """Look again what the records count, and which control groups the processes are in; about once a second."""
        self.ooms.settle()
        for adopted in self:
            adopted.refresh_group()
            with contextlib.suppress(RecordError):  # the next read says so too
                adopted.count()

    def finishing(self) -> set[str]:
        """Keys of the pipelines all of whose records are done."""
        return {a.pipeline.key for a in self if a.done} - {a.pipeline.key for a in self if not a.done}

    def state(self) -> dict[str, Any]:
        """What the journal keeps of it."""
        records = {identity: [adopted.reader.position, adopted.done] for identity, adopted in self._adopted.items()}
        return {"records": {**self._past, **records}, "oom": self.ooms.baselines()}
