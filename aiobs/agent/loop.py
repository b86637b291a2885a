"""The agent's loop: find flight records, read them, export, commit, wait; until nothing is left to do."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiobs.agent.bell import open_bell
from aiobs.agent.journal import Journal
from aiobs.agent.machine import Machine
from aiobs.agent.pipeline import Pipeline
from aiobs.agent.records import RecordFolder
from aiobs.agent.roster import Roster
from aiobs.agent.routes import restored_route, route_key
from aiobs.agent.selfstats import StatusFile
from aiobs.agent.spool import Allowance
from aiobs.clock import monotonic_ns
from aiobs.errors import RecordError
from aiobs.guard import say_once
from aiobs.settings import Settings
from aiobs.telemetry import Route

BUSY_S, LIVE_S, IDLE_S = 0.01, 0.1, 0.2
"""Pauses between two turns: at least; at most while processes live, so that a sudden burst does not lap the ring;
at most without any."""
TURN_RECORDS = 4096
"""A turn waits for about so many records, an eighth of a ring: each turn has its price, however few it reads."""
LOOK_S = 0.1
"""The folder of records is looked at so often."""
FLUSH_S = 0.5
FLUSH_RECORDS = 4096
"""What has been assembled is exported after so long, or so many records."""
STATUS_S = 1.0
ENDED = 16
"""Routes that have ended are still named in the status file, so many of them."""
SEND_S = 2.0
"""An agent told to stop waits so long for a request under way."""


class Agent:
    """Drains the flight records of one runtime directory. Whoever makes one must hold the lock.

    Attributes:
        idle_since: monotonic seconds since when there is nothing to do, None while there is.
    """

    def __init__(
        self, runtime_dir: Path, *, spool_bytes: int, version: str, settings: Settings | None = None,
        breathe: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Go on where an earlier agent stopped.

        Args:
            runtime_dir: made and checked.
            spool_bytes: cap of the spool.
            version: of aiobs, for the agent's own telemetry.
            settings: what to sample of the machine, the defaults by default.
            breathe: called between short stretches of work (thread mode: let others have the GIL).

        Raises:
            OSError: the journal cannot be opened.
        """
        self._runtime_dir, self._version = runtime_dir, version
        self._breathe = breathe
        self._status = StatusFile(runtime_dir)
        self._folder = RecordFolder(runtime_dir / "records")
        self._journal = Journal(runtime_dir / "agent" / "journal.jsonl")
        if self._journal.damage:
            say_once("journal", "aiobs: %s", self._journal.damage)
        self._allowance = Allowance(spool_bytes)
        self._machine = Machine(settings or Settings(), self._journal.last.get("machine", {}), runtime_dir)
        self._pipelines: dict[str, Pipeline] = {}
        self._roster = Roster(self._folder, self._journal.last, self._pipeline_of, breathe)
        self._finished = 0
        self._ended: deque[dict[str, Any]] = deque(maxlen=ENDED)
        self._pending_records = 0
        self._pause_s = BUSY_S
        self._looked_at = self._flushed_at = self._status_at = self._settled_at = self._read_at = 0.0
        self._uncommitted = self._said_waiting = False
        self._bell = open_bell(runtime_dir)
        self.idle_since: float | None = None
        self._resume()

    def _resume(self) -> None:
        # Before anything can be spooled there is a line: no line at all means that the journal was lost.
        self._journal_lost = self._journal.fresh and any((self._runtime_dir / "spool").iterdir())
        if self._journal_lost:
            say_once("journal", "aiobs: the journal is gone, so what waits in the spool may be sent twice")
        for key, state in self._journal.last.get("routes", {}).items():
            self._pipelines[key] = self._pipeline(restored_route(state["route"]), state)
        self._roster.discover()
        for pipeline in self._pipelines.values():
            if not pipeline.records:
                pipeline.close_local()  # nothing comes for it any more, it only sends
        self._commit()

    def _pipeline(self, route: Route, past: dict[str, Any] | None) -> Pipeline:
        return Pipeline(
            route,
            self._runtime_dir / "spool",
            self._allowance,
            self._version,
            past,
            self._machine,
            lost=self._journal_lost,
        )

    def _pipeline_of(self, route: Route) -> Pipeline:
        key = route_key(route)
        pipeline = self._pipelines.get(key)
        if pipeline is None:
            pipeline = self._pipelines[key] = self._pipeline(route, None)
        elif not pipeline.records:
            pipeline.open()
        self._uncommitted = self._uncommitted or not pipeline.journaled
        return pipeline

    # -- one turn ------------------------------------------------------------------------------------------
    def turn(self, *, last: bool = False) -> None:
        """Read what is new and export it where it is time; `last`: export it all, nothing comes after."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S or last:
            self._looked_at = now
            if self._roster.discover():
                self._status_at = 0.0
        if not all(pipeline.journaled for pipeline in self._pipelines.values()):
            # Where exporters begin must be in the journal before they write, else nobody could take it back:
            # nothing is read for a pipeline before that.
            self._flush(ended=False)
        if now - self._settled_at >= 1.0:
            self._settled_at = now
            self._roster.settle()
        if last:
            self._machine.read_once_more()
        began_ns = monotonic_ns()
        read, ended = self._roster.read(patient=not last)
        self._machine.turn(began_ns if read < self._roster.stretch else None, busy=len(self._roster) > 0)
        self._pending_records += read
        since_s, self._read_at = now - self._read_at, now
        longest_s = LIVE_S if len(self._roster) else IDLE_S
        if read >= self._roster.stretch:  # there is more
            self._pause_s = BUSY_S
        else:
            self._pause_s = max(BUSY_S, min(longest_s, TURN_RECORDS / read * since_s if read else longest_s))
        due = now - self._flushed_at >= FLUSH_S or self._pending_records >= min(FLUSH_RECORDS, self._roster.stretch)
        if due or ended or last:
            self._flush(ended=ended)
        if now - self._status_at >= STATUS_S or last or (self._said_waiting and not self.waiting()):
            self._say_status()
        self._note_idle()

    def _flush(self, *, ended: bool) -> None:
        self._flushed_at = time.monotonic()
        wrote = ended or self._pending_records > 0 or self._roster.dirty
        self._pending_records, self._roster.dirty = 0, False
        finishing = self._roster.finishing()
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
            "routes": {key: pipeline.state() for key, pipeline in self._pipelines.items()},
            "machine": self._machine.snapshot(),
            **self._roster.state(),
        }
        try:
            self._journal.commit(entry)
        except OSError as error:
            say_once("journal.full", "aiobs: the journal cannot be written (%s); telemetry waits until it can", error)
            return False
        self._uncommitted = False
        for pipeline in self._pipelines.values():
            pipeline.committed()
        for adopted in self._roster:
            with contextlib.suppress(RecordError):
                adopted.reader.commit(adopted.reader.position)
        return True

    def _clear(self, finishing: set[str]) -> None:
        """Delete the records that are done and close what nobody needs any more."""
        done = [adopted for adopted in self._roster if adopted.done]
        if done:
            self._finished += len(done)
            self._say_status()
        # Whoever waits for a run to be done looks for its flight records: they go last.
        for key in finishing:
            self._pipelines[key].close_local()
        for adopted in done:
            self._roster.release(adopted, delete=True)
        for key, pipeline in list(self._pipelines.items()):
            if not pipeline.records and not pipeline.waiting():
                self._ended.append(pipeline.status())
                pipeline.close(SEND_S)
                del self._pipelines[key]
                self._uncommitted = True
                self._say_status()

    # -- between the turns ---------------------------------------------------------------------------------
    def _note_idle(self) -> None:
        working = any(a.pipeline.outlets or a.watch.ended() is None for a in self._roster)
        if working or self.waiting():
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = time.monotonic()
            if self._pipelines:
                self._clear(set())

    @property
    def draining(self) -> bool:
        """Whether there may be more to read."""
        return any(a.pipeline.outlets and not a.done for a in self._roster)

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
        for adopted in self._roster:
            if adopted.watch.descriptor >= 0 and not adopted.done and not adopted.watch.over:
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
        self._status.say({
            "version": self._version,
            "pid": os.getpid(),
            "adopted": sorted(adopted.identity for adopted in self._roster),
            "finished": self._finished,
            "damaged": self._folder.damaged,
            "routes": [pipeline.status() for pipeline in self._pipelines.values()],
            "ended": list(self._ended),
        })  # fmt: skip

    def held(self) -> set[Path]:
        """Records that cannot be exported as no exporter of theirs works."""
        return {a.reader.path for a in self._roster if not a.pipeline.outlets}

    def close(self) -> None:
        """Let go of everything; what could not be sent stays in the spool, what was not committed in the records."""
        for pipeline in self._pipelines.values():
            pipeline.close(SEND_S)
        for adopted in self._roster:
            adopted.release(delete=False)
        self._machine.close()
        self._journal.close()
        os.close(self._bell)
