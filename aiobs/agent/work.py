"""What one process did on GPUs, and its spans, which wait for a reading later than their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiobs import names
from aiobs.agent.decode import ENTRANCES, Found
from aiobs.agent.frozen import freeze_event, freeze_row, thaw_event, thaw_row
from aiobs.agent.metrics import Metrics
from aiobs.agent.openings import OpenStep
from aiobs.agent.process_usage import ProcessUsage
from aiobs.agent.units import Units
from aiobs.fault_notes import FaultNote
from aiobs.telemetry import Extra, Link, Resource, Row, SpanEvent, Value

ROWS_LIMIT = 4096
"""Spans of one process that wait; beyond it the oldest go without what the GPU did, counted."""
STEPS_LIMIT = 4096
"""Finished steps whose energy is not known yet."""
EVENTS_LIMIT = 256
"""Events of a process's GPUs, the newest, that spans still to come may have been hit by."""

_WHOLES = {names.SPAN_STEP, names.SPAN_RANK_STEP, names.SPAN_PROCESS, names.SPAN_CHECKPOINT_SAVE}

Look = Callable[[], "tuple[list[Found], list[OpenStep]]"]


class Hardware(Protocol):
    """What the work of one process needs to know of the GPUs."""

    @property
    def patience_ns(self) -> int:
        """How long a span may wait for a reading."""
        ...

    def assign(self, work: Work) -> None:
        """Find the GPUs of a process."""
        ...

    def now(self) -> int:
        """Monotonic ns."""
        ...

    def waits(self, work: Work) -> bool:
        """Whether readings of the process's GPUs are to be expected."""
        ...

    def settled_ns(self, work: Work) -> int:
        """All that ended up to this moment is known of the process's GPUs."""
        ...

    def attributes(self, work: Work, begin_ns: int, end_ns: int) -> dict[str, Value]:
        """What its GPUs did in that time, for a span of it."""
        ...

    def totals(self, work: Work) -> dict[str, Value]:
        """What the process drew in all, for its own span."""
        ...

    def energy(self, work: Work, begin_ns: int, end_ns: int) -> float | None:
        """Joules of a unit, or None where they are not known."""
        ...

    def hurry(self) -> None:
        """Ask for a reading at once."""


class Work:
    """See the module's text. Times in monotonic ns where not said otherwise.

    Attributes:
        key, pid: names the process; the pid is 0 where it is not one of ours. `offset`: wall - monotonic clock, ns.
        wanted: ids of its GPUs as the process itself said; None while it has said nothing.
        gpus: ids of those of them that are sampled. `since_ns`: when it was first known to use one.
        ended_ns: when it ended, None while it lives.
        units: its units. `usage`: its CPU time.
        metrics: of the process. `look`: tells what it has open now; may raise RecordError.
        news: events that are still to be logged.
        identity: pid and start time as the process itself wrote them. `faults`: aimed at it, in force or just over.
    """

    def __init__(self, key: str, pid: int, offset: int, run_span: bytes, hardware: Hardware) -> None:
        self.key, self.pid, self.offset = key, pid, offset
        self.metrics = Metrics(0)
        self.look: Look = lambda: ([], [])
        self.wanted: tuple[str, ...] | None = None
        self.gpus: tuple[str, ...] = ()
        self.since_ns = 0
        self.ended_ns: int | None = None
        self.units = Units(offset, run_span)
        self.usage = ProcessUsage(pid)
        self.news: list[SpanEvent] = []
        self.identity: tuple[int, int] = (0, 0)
        self.faults: list[FaultNote] = []
        self._hardware = hardware
        self._waiting: deque[tuple[int, Row]] = deque()
        self._frozen: dict[bytes, list[Any]] = {}
        self._steps: deque[tuple[int, int]] = deque(maxlen=STEPS_LIMIT)
        self._events: deque[SpanEvent] = deque(maxlen=EVENTS_LIMIT)
        self._asked_ns = 0

    # -- what comes in -------------------------------------------------------------------------------------
    def described(self, resource: Resource) -> None:
        """Its resource, which may name its GPUs."""
        found = resource.attributes.get(names.GPU_IDS)
        if isinstance(found, (list, tuple)):
            self.wanted = tuple(str(gpu) for gpu in found)
            self._hardware.assign(self)

    def see(self, rows: Sequence[Row]) -> None:
        """Spans have ended."""
        if self.gpus:
            self.units.see(rows)

    def step(self, thread: int, start: int, end: int) -> None:
        """A step has ended, kept or not."""
        if self.gpus:
            self.units.step(thread, start, end)
            self._steps.append((start, end))

    def happened(self, event: SpanEvent) -> None:
        """Something hit the process; its spans of that time will tell."""
        self._events.append(event)
        self.news.append(event)

    def aimed_at(self, faults: list[FaultNote]) -> None:
        """These faults are aimed at the process, in force or just over; may raise RecordError."""
        if faults and not self.faults:
            self.units.look(*self.look())  # its own span is what the spans at its top are children of
        self.faults = faults

    def may_end(self, time_ns: int) -> bool:
        """Whether all is known up to the moment it ended; to be asked again soon where not."""
        if self.ended_ns is None:
            self.ended_ns, self._asked_ns = time_ns, self._hardware.now()
            self.usage.end()
        if not self.gpus or self._hardware.settled_ns(self) >= self.ended_ns:
            return True
        if not self._hardware.waits(self) or self._hardware.now() - self._asked_ns > self._hardware.patience_ns:
            return True
        self._hardware.hurry()
        return False

    # -- what goes out -------------------------------------------------------------------------------------
    def settle(self) -> None:
        """There is a new reading: count the energy of the steps it settles."""
        settled = self._hardware.settled_ns(self)
        while self._steps and self._steps[0][1] <= settled:
            joules = self._hardware.energy(self, *self._steps.popleft())
            if joules is not None:
                self.metrics.observe(names.TRAIN_STEP_ENERGY, joules)

    def through(self, rows: list[Row], *, final: bool) -> list[Row]:
        """Take in `rows` that are ready, and give out those of all of which the GPUs' part is known.

        Args:
            final: nothing more will be known.
        """
        if not self._waiting and not self.gpus:
            return [self._told(row) for row in rows] if self._events or self.faults else rows
        hardware = self._hardware
        now, ready = hardware.now(), []
        self._waiting.extend((now, row) for row in rows)
        settled = hardware.settled_ns(self)
        patient = not final and hardware.waits(self)
        later: deque[tuple[int, Row]] = deque()
        excess = len(self._waiting) - ROWS_LIMIT
        for number, (since, row) in enumerate(self._waiting):
            end = row[5] - self.offset
            if row[4] == row[5]:
                ready.append(row)
            elif end <= settled:
                ready.append(self._complete(row))
            elif patient and now - since <= hardware.patience_ns and number >= excess:
                later.append((since, row))
            else:
                self.metrics.add(names.GPU_ROWS_UNATTRIBUTED)
                ready.append(self._told(row))
        self._waiting = later
        return ready

    def _complete(self, row: Row) -> Row:
        shape, _, _, _, start, end, _, _ = row
        if shape.name == names.SPAN_RUN and shape.scope == "aiobs":
            return self._told(row)  # the run is all its processes, and this one knows of its own GPUs only
        found = self._hardware.attributes(self, start - self.offset, end - self.offset)
        if shape.name == names.SPAN_PROCESS and shape.scope == "aiobs":
            found.update(self._hardware.totals(self))
        if found:
            extra = row[7] or Extra()
            extra.attributes.update(found)
            row = (*row[:7], extra)
        return self._told(row)

    def _told(self, row: Row) -> Row:
        """`row` with the events that hit it, and a link to each fault that did."""
        hit = [event for event in self._events if row[4] <= event.time_ns <= row[5]]
        faults = self.faults and self._faults_of(row)
        if hit or faults:
            extra = row[7] or Extra()
            extra.events.extend(hit)
            for fault in faults:
                extra.attributes[names.FAULT_INJECTED] = True
                told = {names.LINK: names.LINK_FAULT, names.FAULT_ID: fault.fault, names.FAULT_KIND: fault.kind}
                extra.links.append(Link(bytes.fromhex(fault.trace), bytes.fromhex(fault.span), told))
            row = (*row[:7], extra)
        return row

    def _faults_of(self, row: Row) -> list[FaultNote]:
        """The faults that were in force while the work of `row` was under way; parts of it say no more than that."""
        shape, _, _, parent, start, end, _, _ = row
        whole = shape.kind in ENTRANCES or parent in self.units.homes or shape.name in _WHOLES
        if not whole:
            return []
        begin, last = start - self.offset, end - self.offset
        return [it for it in self.faults if it.begin_ns <= last and begin <= (it.end_ns or last)]

    # -- across the agent's death --------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        known = self._frozen
        self._frozen = {row[2]: known.get(row[2]) or freeze_row(row) for _, row in self._waiting}
        return {
            "wanted": self.wanted,
            "gpus": self.gpus,
            "since": self.since_ns,
            "homes": [span.hex() for span in self.units.homes],
            "waiting": list(self._frozen.values()),
            "steps": list(self._steps),
            "events": [freeze_event(event) for event in self._events],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        self.wanted = None if state["wanted"] is None else tuple(state["wanted"])
        self.gpus, self.since_ns = tuple(state["gpus"]), state["since"]
        now = self._hardware.now()
        self._waiting.extend((now, thaw_row(frozen)) for frozen in state["waiting"])
        self.units.homes |= {bytes.fromhex(span) for span in state["homes"]}
        # What waits for a reading has not been settled: it is what the units of that time were.
        self.units.see(row for _, row in self._waiting)
        for start, end in state["steps"]:
            self._steps.append((start, end))
            self.units.step(0, start, end)
        self._events.extend(thaw_event(event) for event in state["events"])
