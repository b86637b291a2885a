"""The agent's loop: find flight records, read them, export, commit, wait; until nothing is left to do."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiobs.agent.adopted import Adopted, record_identity
from aiobs.agent.bell import open_bell
from aiobs.agent.cgroup import OomCounters
from aiobs.agent.journal import Journal
from aiobs.agent.pipeline import Pipeline, route_key
from aiobs.agent.reader import FlightReader
from aiobs.agent.records import RecordFolder
from aiobs.agent.selfstats import write_status
from aiobs.agent.spool import Allowance
from aiobs.errors import RecordError
from aiobs.guard import say_once, swallow
from aiobs.telemetry import Route

BUSY_S, IDLE_S = 0.01, 0.2
"""Shortest and longest pause between two turns."""
LOOK_S = 0.1
"""The folder of records is looked at so often."""
FLUSH_S = 0.5
FLUSH_RECORDS = 4096
"""What has been assembled is exported after so long, or so many records."""
STRETCH_RECORDS, SHORT_STRETCH_RECORDS = 16_384, 128
"""Records read from one process before the next one's turn; in a thread of the user's process."""
STATUS_S = 1.0
SEND_S = 2.0
"""An agent told to stop waits so long for a request under way."""


class Agent:
    """Drains the flight records of one runtime directory. Whoever makes one must hold the lock.

    Attributes:
        idle_since: monotonic seconds since when there is nothing to do, None while there is.
    """

    def __init__(
        self, runtime_dir: Path, *, spool_bytes: int, version: str, breathe: Callable[[], None] | None = None
    ) -> None:
        """Go on where an earlier agent stopped.

        Args:
            runtime_dir: made and checked.
            spool_bytes: cap of the spool.
            version: of aiobs, for the agent's own telemetry.
            breathe: called between short stretches of work (thread mode: let others have the GIL).

        Raises:
            OSError: the journal cannot be opened.
        """
        self._runtime_dir, self._version = runtime_dir, version
        self._breathe = breathe
        self._stretch = SHORT_STRETCH_RECORDS if breathe else STRETCH_RECORDS
        self._folder = RecordFolder(runtime_dir / "records")
        self._journal = Journal(runtime_dir / "agent" / "journal.jsonl")
        if self._journal.damage:
            say_once("journal", "aiobs: %s", self._journal.damage)
        self._allowance = Allowance(spool_bytes)
        self._ooms = OomCounters()
        self._pipelines: dict[str, Pipeline] = {}
        self._adopted: dict[str, Adopted] = {}
        self._finished = 0
        self._pending_records = 0
        self._pause_s = BUSY_S
        self._looked_at = self._flushed_at = self._status_at = self._settled_at = 0.0
        self._uncommitted = self._said_waiting = False
        self._bell = open_bell(runtime_dir)
        self.idle_since: float | None = None
        self._resume()

    def _resume(self) -> None:
        past = self._journal.last
        self._ooms.restore(past.get("oom", {}))
        self._past_records: dict[str, list[Any]] = past.get("records", {})
        self._past_routes: dict[str, dict[str, Any]] = past.get("routes", {})
        # Before anything can be spooled there is a line: no line at all means that the journal was lost.
        self._journal_lost = self._journal.fresh and any((self._runtime_dir / "spool").iterdir())
        if self._journal_lost:
            say_once("journal", "aiobs: the journal is gone, so what waits in the spool may be sent twice")
        for key, state in self._past_routes.items():
            route = Route(**{**state["route"], "exporters": tuple(state["route"]["exporters"])})
            self._pipelines[key] = self._pipeline(route, state)
        if self._journal.fresh:
            self._commit()

    def _pipeline(self, route: Route, past: dict[str, Any] | None) -> Pipeline:
        return Pipeline(
            route, self._runtime_dir / "spool", self._allowance, self._version, past, lost=self._journal_lost
        )

    # -- one turn ------------------------------------------------------------------------------------------
    def turn(self, *, last: bool = False) -> None:
        """Read what is new and export it where it is time; `last`: export it all, nothing comes after."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S or last:
            self._looked_at = now
            self._discover()
        if now - self._settled_at >= 1.0:
            self._settled_at = now
            self._ooms.settle()
            for adopted in self._adopted.values():
                adopted.refresh_group()
        read, ended = self._read()
        self._pending_records += read
        self._pause_s = BUSY_S if read >= 256 else min(self._pause_s * 2, IDLE_S)
        due = now - self._flushed_at >= FLUSH_S or self._pending_records >= min(FLUSH_RECORDS, self._stretch)
        if due or ended or last:
            self._flush(ended=ended)
        if now - self._status_at >= STATUS_S or last or (self._said_waiting and not self.waiting()):
            self._say_status()
        self._note_idle()

    def _discover(self) -> None:
        known = {adopted.reader.path for adopted in self._adopted.values() if not adopted.replaced()}
        for path in self._folder.look():
            if path not in known:
                self._adopt(path)
        self._past_records = {}  # whatever of it was not found now is deleted already

    def _adopt(self, path: Path) -> None:
        reader = self._folder.open(path)
        if reader is None:
            return
        past = self._past_records.pop(record_identity(reader), None)
        if past and past[1]:
            # Its last turn was committed, only the deletion is missing.
            reader.close()
            path.unlink(missing_ok=True)
            return
        if past:
            reader.position = past[0]
        key = route_key(reader.route)
        pipeline = self._pipelines.get(key)
        if pipeline is None:
            pipeline = self._pipelines[key] = self._pipeline(reader.route, None)
            self._uncommitted = True
        elif not pipeline.records:
            pipeline.open()
            self._uncommitted = True
        adopted = Adopted(reader, pipeline, self._ooms)
        self._adopted[adopted.identity] = adopted
        self._status_at = 0.0
        if self._uncommitted:
            # Where exporters begin must be in the journal before they write, else nobody could take it back.
            self._flush(ended=False)

    def _read(self) -> tuple[int, bool]:
        """Records read, and whether a process ended."""
        read, ended = 0, False
        for adopted in list(self._adopted.values()):
            pipeline = adopted.pipeline
            if adopted.done or not pipeline.outlets:
                continue
            try:
                end = adopted.end()
                read += pipeline.assembler.add(adopted.reader, self._stretch)
                if end is not None:
                    pipeline.assembler.process_ended(adopted.reader, end)
                    adopted.done = ended = True
                adopted.count_lost()
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
        del self._adopted[adopted.identity]
        adopted.release(delete=False)
        self._uncommitted = True

    def _flush(self, *, ended: bool) -> None:
        self._flushed_at = time.monotonic()
        wrote = ended or self._pending_records > 0
        self._pending_records = 0
        finishing = {a.pipeline.key for a in self._adopted.values() if a.done} - {
            a.pipeline.key for a in self._adopted.values() if not a.done
        }
        for key, pipeline in self._pipelines.items():
            if pipeline.records or key in finishing:
                wrote = pipeline.flush(final=key in finishing) or wrote
            pipeline.retry()
            if self._breathe:
                self._breathe()
        if (wrote or self._uncommitted) and self._commit():
            self._clear(finishing)

    def _commit(self) -> bool:
        """Make the turn done; False where something waits in memory only or the journal cannot be written."""
        self._uncommitted = True
        if not all(pipeline.durable for pipeline in self._pipelines.values()):
            return False
        entry = {
            "v": 1,
            "records": {
                **self._past_records,
                **{identity: [a.reader.position, a.done] for identity, a in self._adopted.items()},
            },
            "routes": {key: pipeline.state() for key, pipeline in self._pipelines.items()},
            "oom": self._ooms.baselines(),
        }
        try:
            self._journal.commit(entry)
        except OSError as error:
            say_once("journal.full", "aiobs: the journal cannot be written (%s); telemetry waits until it can", error)
            return False
        self._uncommitted = False
        for pipeline in self._pipelines.values():
            pipeline.committed()
        for adopted in self._adopted.values():
            with contextlib.suppress(RecordError):
                adopted.reader.commit(adopted.reader.position)
        return True

    def _clear(self, finishing: set[str]) -> None:
        """Delete the records that are done and close what nobody needs any more."""
        done = [adopted for adopted in self._adopted.values() if adopted.done]
        if done:
            self._finished += len(done)
            self._say_status()
        # Whoever waits for a run to be done looks for its flight records: they go last.
        for key in finishing:
            self._pipelines[key].close_local()
        for adopted in done:
            del self._adopted[adopted.identity]
            adopted.release(delete=True)
        for key, pipeline in list(self._pipelines.items()):
            if not pipeline.records and not pipeline.waiting():
                pipeline.close(0)
                del self._pipelines[key]
                self._uncommitted = True

    # -- between the turns ---------------------------------------------------------------------------------
    def _note_idle(self) -> None:
        working = any(a.pipeline.outlets or a.watch.ended() is None for a in self._adopted.values())
        if working or self.waiting():
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = time.monotonic()
            if self._pipelines:
                self._clear(set())

    @property
    def draining(self) -> bool:
        """Whether flight records are in work."""
        return any(a.pipeline.outlets for a in self._adopted.values())

    def waiting(self) -> int:
        """Items spooled and not yet sent."""
        return sum(pipeline.waiting() for pipeline in self._pipelines.values())

    def hurry(self) -> None:
        """Let all exporters try again now."""
        for pipeline in self._pipelines.values():
            pipeline.hurry()

    def wait(self) -> None:
        """Pause until the next turn: a process ends, somebody rings, or the pause is over."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for adopted in self._adopted.values():
            if adopted.watch.descriptor >= 0 and not adopted.done and adopted.watch.ended() is None:
                poll.register(adopted.watch.descriptor, select.POLLIN)
        if any(descriptor == self._bell for descriptor, _ in poll.poll(self._pause_s * 1000)):
            os.read(self._bell, 4096)
            self._looked_at = 0.0

    def wake(self) -> None:
        """End the pause; may be called from any thread or signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._bell, b".")

    def _say_status(self) -> None:
        self._status_at = time.monotonic()
        self._said_waiting = self.waiting() > 0
        write_status(self._runtime_dir, {
            "version": self._version,
            "pid": os.getpid(),
            "time": time.time(),
            "adopted": sorted(self._adopted),
            "finished": self._finished,
            "damaged": self._folder.damaged,
            "routes": [pipeline.status() for pipeline in self._pipelines.values()],
        })  # fmt: skip

    def held(self) -> set[Path]:
        """Records that cannot be exported as no exporter of theirs works."""
        return {a.reader.path for a in self._adopted.values() if not a.pipeline.outlets}

    def close(self) -> None:
        """Let go of everything; what could not be sent stays in the spool, what was not committed in the records."""
        for pipeline in self._pipelines.values():
            pipeline.close(SEND_S)
        for adopted in self._adopted.values():
            adopted.release(delete=False)
        self._journal.close()
        os.close(self._bell)
