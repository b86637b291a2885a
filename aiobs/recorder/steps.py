"""Training steps: a step and its phases are entries in one area of the flight record, a record once it is over.

A phase costs two small writes. Ids and spans are made by the agent; here they are only computed where another
span begins inside a phase and needs a parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from types import TracebackType
from typing import Any

from aiobs import ids, names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.flight import Flight
from aiobs.recorder.hot import thread
from aiobs.recorder.phases import HotPhase, HotSteps
from aiobs.recorder.rest import type_name
from aiobs.recorder.schema import json_bytes, phase_id, plain
from aiobs.recorder.state import on_new_flight, state, wake

_entry = at.STEP_ENTRY.pack_into
_count = at.STEP_COUNT.pack_into
_time = Struct("<Q").pack_into
_ENTRY = at.STEP_ENTRY.size
_ENTRIES_AT = at.HEAD_BYTES + at.STEP_COUNT.size


class Steps(HotSteps):
    """The steps of one thread's training loop. Get it with :func:`steps`."""

    __slots__ = ()

    @property
    def _memory(self) -> Any:
        assert self._flight is not None
        return self._spare if self._spare is not None else self._flight.mm

    def __del__(self) -> None:
        flight = self._flight
        if flight is not None and self._area and flight is state.flight:
            flight.mm[self._area + at.HEAD_SEQ] = 0
            flight.areas.append(self._area)

    # -- begin and end of the step -------------------------------------------------------------------------
    def _begin(self, number: int | None, start_ns: int | None) -> None:
        if self.open:
            self.close(start_ns)
        flight = state.flight
        if flight is None:
            return
        if flight is not self._flight:
            self._settle(flight)
        if number is not None:
            self.number = number
        self._open_at(monotonic_ns() if start_ns is None else start_ns)

    def _settle(self, flight: Flight) -> None:
        self._flight = flight
        self.number = 0
        self.explicit = False
        if flight.areas:
            self._spare, self._area = None, flight.areas.pop()
        else:
            # More training threads than areas: recorded all the same, unknown to others until the step ends.
            self._spare, self._area = bytearray(at.AREA_BYTES), 0

    def _open_at(self, start: int) -> None:
        self._serial += 1
        self._count = self._begun = self._marked = 0
        self._stack = []
        self._context = None
        self.start_ns = self._step_start = start
        self.provisional_end_ns = 0
        self.claimed = False
        self.token = state.foreign()[0] if state.foreign is not None else None
        self._attributes = {}
        self.open = True
        _count(self._memory, self._area + at.HEAD_BYTES, 0, 0, 0)
        at.HEAD.pack_into(self._memory, self._area, at.STEP, 0, at.NO_SLOT, 0, 0, 0, 0, 0, thread.number, 0, 0,
                          start, self.number, 0, 1)  # fmt: skip

    def claim(self, number: int | None = None) -> None:
        """Begin a step that the user marks. Phases that were recorded since the last one (the wait for its data)
        are its first."""
        if self.open and (self.claimed or self.provisional_end_ns):
            self.close(None if self.provisional_end_ns and self._count > self._marked else monotonic_ns())
        before = self.discard() if self.open and not self.claimed else []
        self.begin(number, min((start for _, start, _ in before), default=None))
        for phase, start, end in before:
            self.leave(self.enter(phase, start), end or None)
        self.explicit = self.claimed = True

    def _close(self, at_ns: int | None, skipped: bool) -> None:
        if not self.open or self._flight is None:
            return
        kept = self._count
        end = at_ns or 0
        if not end and self.provisional_end_ns:
            end, kept = self.provisional_end_ns, self._marked
        end = end or monotonic_ns()
        later = self._later(kept, end)
        self._finish_open(kept, end)
        try:
            self._emit(kept, end, at.FLAG_SKIPPED if skipped else 0)
        except Exception as error:
            self._flight.add(at.UNRECORDED)
            swallow("recorder.step.close", error)
        self.open = False
        self._memory[self._area + at.HEAD_SEQ] = 0
        self.number += 1
        if later:
            stack = self._stack[:]
            self._open_at(min(later[0][3], end) if later[0][3] > end else end)
            self._restore(later, kept, stack)

    def discard(self) -> list[tuple[int, int, int]]:
        """Forget the open step, which turned out to be none; returns its entries (phase id, start, end ns)."""
        found = [(e[0], e[3], e[4]) for e in self._read(0)] if self.open else []
        if self.open:
            self.open = False
            self._memory[self._area + at.HEAD_SEQ] = 0
        return found

    def set(self, key: str, value: Any) -> None:
        """Set an attribute of the open step's span."""
        if self.open:
            self._attributes[key] = value

    def set_all(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes of the open step's span."""
        if self.open:
            self._attributes.update(attributes)

    @property
    def failed(self) -> bool:
        """Whether the open step is marked as failed."""
        return self.open and names.ERROR_TYPE in self._attributes

    # -- what surrounds a span begun here ------------------------------------------------------------------
    def context(self) -> Context:
        """Context of the innermost open phase, else of the step."""
        index = self._stack[-1][0] if self._stack else -1
        route = state.route
        known = self._context
        if known is None or known[0] != index or known[1] is not route:
            trace = ids.step_trace_id(route.run_id, route.attempt, self.number)
            span = ids.step_span_id(route.run_id, route.attempt, self.number, route.rank)
            if index >= 0:
                span = ids.phase_span_id(span, index)
            known = self._context = index, route, Context(trace, span, in_step=True)
        return known[2]

    # -- entries -------------------------------------------------------------------------------------------
    def _read(self, first: int) -> list[tuple[int, int, int, int, int]]:
        unpack = at.STEP_ENTRY.unpack_from
        return [unpack(self._memory, self._area + _ENTRIES_AT + i * _ENTRY) for i in range(first, self._count)]

    def _later(self, kept: int, end: int) -> list[tuple[int, int, int, int, int]]:
        return [entry for entry in self._read(kept) if entry[3] >= end]

    def _finish_open(self, kept: int, end: int) -> None:
        for index, *_ in self._stack:
            if index < kept:
                _time(self._memory, self._area + _ENTRIES_AT + index * _ENTRY + at.STEP_ENTRY_END, end)

    def _emit(self, kept: int, end: int, flags: int) -> None:
        flight = self._flight
        assert flight is not None
        begun = self._begun - (self._count - kept)
        payload = at.STEP_COUNT.pack(kept, 0, max(begun, kept)) + bytes(
            self._memory[self._area + _ENTRIES_AT : self._area + _ENTRIES_AT + kept * _ENTRY]
        )
        if self._attributes:
            flags |= at.FLAG_EXTRA
            payload += json_bytes({"attributes": plain(self._attributes, flight.clip_at)})
        if len(payload) > at.PAYLOAD_LIMIT:
            flight.add(at.CLIPPED)
            flags &= ~at.FLAG_EXTRA
            payload = payload[: at.STEP_COUNT.size + kept * _ENTRY]
        flight.write(at.STEP, flags, at.NO_SLOT, 0, (0, 0), 0, 0, thread.number, self._step_start, self.number, end, payload)  # fmt: skip

    def _restore(
        self, later: list[tuple[int, int, int, int, int]], shift: int, stack: list[tuple[int, int, object, int]]
    ) -> None:
        """Put `later` entries at the beginning of the step just opened; open ones stay open."""
        for index, (phase, outer, owner, start, end) in enumerate(later):
            outer = outer - shift if at.NO_SLOT != outer >= shift else at.NO_SLOT
            _entry(self._memory, self._area + _ENTRIES_AT + index * _ENTRY, phase, outer, owner, start, end)
        self._count = self._begun = len(later)
        _count(self._memory, self._area + at.HEAD_BYTES, self._count, 0, self._begun)
        self._stack = [(index - shift, start, token, own) for index, start, token, own in stack if index >= shift]
        self.start_ns = self._stack[-1][1] if self._stack else self._step_start


def steps() -> Steps:
    """The steps of this thread."""
    found: Steps | None = thread.steps
    if found is None:
        found = thread.steps = Steps()
        state.surrounded = True
    found._adopt()
    if state.flight is None and state.sleeping is not None:
        wake()
    return found


class Phase(HotPhase):
    """A part of a step, to be used with ``with``; one object may be used again and again. See :func:`aiobs.phase`."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = str(name)
        self._id = 0
        self._generation = -1

    def _prepare(self) -> None:
        steps()
        self._id = phase_id(self.name)
        self._generation = state.generation

    def _steps(self) -> Steps:
        return steps()


class Step:
    """An explicitly marked step; see :func:`aiobs.step`."""

    __slots__ = ("_attributes", "_number", "_serial")

    def __init__(self, number: int | None, attributes: dict[str, Any]) -> None:
        found = steps()
        found.claim(number)
        found.set_all(attributes)
        self._serial = found._serial

    def set(self, key: str, value: Any) -> None:
        """Set an attribute of the step's span."""
        steps().set(key, value)

    def end(self) -> None:
        """End the step, unless another one has begun since."""
        found = steps()
        if found.open and found._serial == self._serial:
            found.close(monotonic_ns())

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            found = steps()
            if state.failing is not None:
                state.failing(error, found.context())
            found.set(names.ERROR_TYPE, type_name(error))
        self.end()


def _forget() -> None:
    thread.steps = None  # those of other threads notice when they begin their next step


on_new_flight(_forget)
