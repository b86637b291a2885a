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
from aiobs.recorder.schema import json_bytes, phase_id, plain
from aiobs.recorder.spans import _thread
from aiobs.recorder.state import on_new_flight, state, wake

_entry = at.STEP_ENTRY.pack_into
_count = at.STEP_COUNT.pack_into
_time = Struct("<Q").pack_into
_ENTRY = at.STEP_ENTRY.size
_ENTRIES_AT = at.HEAD_BYTES + at.STEP_COUNT.size


class Steps:
    """The steps of one thread's training loop. Get it with :func:`steps`.

    Attributes:
        open: whether a step is open; `number`: its number, or the next one's.
        start_ns: when it began (monotonic); `token`: what OpenTelemetry held as current when the innermost
            phase, or else the step, began.
        provisional_end_ns: when its last optimizer step so far ended, 0 before the first.
        explicit: the user marks steps with :func:`aiobs.step`; nobody else may close or begin them.
    """

    __slots__ = (
        "_area", "_attributes", "_begun", "_count", "_entries", "_flight", "_given", "_marked", "_memory", "_serial",
        "_stack", "_step_start", "explicit", "number", "open", "provisional_end_ns", "start_ns", "token",
    )  # fmt: skip

    def __init__(self) -> None:
        self.open = False
        self.explicit = False
        self.number = 0
        self.start_ns = self._step_start = 0
        self.token: object = None
        self.provisional_end_ns = 0
        self._flight: Flight | None = None
        self._memory: Any = None
        self._area = self._entries = 0
        self._serial = self._given = 0
        self._count = self._begun = self._marked = 0
        self._stack: list[tuple[int, int, object, int]] = []
        self._attributes: dict[str, Any] = {}

    def __del__(self) -> None:
        flight = self._flight
        if flight is not None and self._area and flight is state.flight:
            flight.mm[self._area + at.HEAD_SEQ] = 0
            flight.areas.append(self._area)

    # -- begin and end of the step -------------------------------------------------------------------------
    def begin(self, number: int | None = None, start_ns: int | None = None) -> None:
        """Begin a step; an open one is closed first."""
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
            self._memory, self._area = flight.mm, flight.areas.pop()
        else:
            # More training threads than areas: recorded all the same, unknown to others until the step ends.
            self._memory, self._area = bytearray(at.AREA_BYTES), 0
        self._entries = self._area + _ENTRIES_AT

    def _open_at(self, start: int) -> None:
        self._serial += 1
        self._count = self._begun = self._marked = 0
        self._stack.clear()
        self.start_ns = self._step_start = start
        self.provisional_end_ns = 0
        self.token = state.foreign()[0] if state.foreign is not None else None
        self._attributes = {}
        self.open = True
        _count(self._memory, self._area + at.HEAD_BYTES, 0, 0, 0)
        at.HEAD.pack_into(self._memory, self._area, at.STEP, 0, at.NO_SLOT, 0, 0, 0, 0, 0, _thread.number, 0, 0,
                          start, self.number, 0, 1)  # fmt: skip

    def mark_end(self, at_ns: int | None = None) -> None:
        """An optimizer step has just ended: the step may be over here, or go on with another optimizer."""
        if self.open:
            self.provisional_end_ns = end = monotonic_ns() if at_ns is None else at_ns
            self._marked = self._count
            _time(self._memory, self._area + at.HEAD_END, end)

    def close(self, at_ns: int | None = None, *, skipped: bool = False) -> None:
        """End the step at `at_ns`, else at the provisional end, else now; write its record.

        Phases begun after that moment go into the next step, which is then open. With `skipped` the optimizer
        was skipped (AMP overflow).
        """
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

    # -- phases --------------------------------------------------------------------------------------------
    def enter(self, phase: int, start_ns: int | None = None) -> int:
        """Begin a phase (id from ``phase_id``); opens a step where none is open. Returns a token for `leave`,
        which stays good when the phase moves to the next step."""
        start = monotonic_ns() if start_ns is None else start_ns
        if not self.open or self._flight is not state.flight:
            self.begin(None, start)
            if not self.open:
                return -1
        index = self._count
        self._begun += 1
        if index >= at.AREA_ENTRIES:
            return -1
        stack = self._stack
        memory = self._memory
        _entry(memory, self._entries + index * 24, phase, stack[-1][0] if stack else 0xFFFF, _thread.number, start, 0)
        self._count = index + 1
        _count(memory, self._area + 80, index + 1, 0, self._begun)
        token = self._given = self._given + 1
        stack.append((index, start, self.token, token))
        self.start_ns = start
        if state.foreign is not None:
            self.token = state.foreign()[0]
        return token

    def leave(self, token: int, end_ns: int | None = None) -> None:
        """End the phase that `enter` gave this token for, now or at `end_ns`; a token of an earlier step is ignored."""
        end = monotonic_ns() if end_ns is None else end_ns
        stack = self._stack
        if not stack or not self.open or (stack[-1][3] != token and all(entry[3] != token for entry in stack)):
            return
        while True:
            index, _start, self.token, own = stack.pop()
            _time(self._memory, self._entries + index * 24 + 16, end)
            if own == token:
                break
        self.start_ns = stack[-1][1] if stack else self._step_start

    # -- what surrounds a span begun here ------------------------------------------------------------------
    def context(self) -> Context:
        """Context of the innermost open phase, else of the step."""
        route = state.route
        trace = ids.step_trace_id(route.run_id, route.attempt, self.number)
        span = ids.step_span_id(route.run_id, route.attempt, self.number, route.rank)
        if self._stack:
            span = ids.phase_span_id(span, self._stack[-1][0])
        return Context(trace, span, in_step=True)

    # -- entries -------------------------------------------------------------------------------------------
    def _read(self, first: int) -> list[tuple[int, int, int, int, int]]:
        unpack = at.STEP_ENTRY.unpack_from
        return [unpack(self._memory, self._entries + i * _ENTRY) for i in range(first, self._count)]

    def _later(self, kept: int, end: int) -> list[tuple[int, int, int, int, int]]:
        return [entry for entry in self._read(kept) if entry[3] >= end]

    def _finish_open(self, kept: int, end: int) -> None:
        for index, *_ in self._stack:
            if index < kept:
                _time(self._memory, self._entries + index * _ENTRY + at.STEP_ENTRY_END, end)

    def _emit(self, kept: int, end: int, flags: int) -> None:
        flight = self._flight
        assert flight is not None
        begun = self._begun - (self._count - kept)
        payload = at.STEP_COUNT.pack(kept, 0, max(begun, kept)) + bytes(
            self._memory[self._entries : self._entries + kept * _ENTRY]
        )
        if self._attributes:
            flags |= at.FLAG_EXTRA
            payload += json_bytes({"attributes": plain(self._attributes, flight.clip_at)})
        if len(payload) > at.PAYLOAD_LIMIT:
            flight.add(at.CLIPPED)
            flags &= ~at.FLAG_EXTRA
            payload = payload[: at.STEP_COUNT.size + kept * _ENTRY]
        flight.write(at.STEP, flags, at.NO_SLOT, 0, (0, 0), 0, 0, _thread.number, self._step_start, self.number, end, payload)  # fmt: skip

    def _restore(
        self, later: list[tuple[int, int, int, int, int]], shift: int, stack: list[tuple[int, int, object, int]]
    ) -> None:
        """Put `later` entries at the beginning of the step just opened; open ones stay open."""
        for index, (phase, outer, thread, start, end) in enumerate(later):
            outer = outer - shift if at.NO_SLOT != outer >= shift else at.NO_SLOT
            _entry(self._memory, self._entries + index * _ENTRY, phase, outer, thread, start, end)
        self._count = self._begun = len(later)
        _count(self._memory, self._area + at.HEAD_BYTES, self._count, 0, self._begun)
        self._stack = [(index - shift, start, token, own) for index, start, token, own in stack if index >= shift]
        self.start_ns = self._stack[-1][1] if self._stack else self._step_start


def steps() -> Steps:
    """The steps of this thread."""
    found: Steps | None = _thread.steps
    if found is None:
        found = _thread.steps = Steps()
        state.surrounded = True
    if state.flight is None and state.sleeping is not None:
        wake()
    return found


class Phase:
    """A part of a step, to be used with ``with``; one object may be used again and again. See :func:`aiobs.phase`."""

    __slots__ = ("_generation", "_id", "_tokens", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._id = 0
        self._generation = -1
        self._tokens: list[tuple[Steps, int]] = []

    def __enter__(self) -> Phase:
        if self._generation != state.generation:
            steps()
            self._id = phase_id(self.name)
            self._generation = state.generation
        if self._id:
            found = _thread.steps or steps()
            self._tokens.append((found, found.enter(self._id)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tokens:
            found, token = self._tokens.pop()
            found.leave(token)


class Step:
    """An explicitly marked step; see :func:`aiobs.step`."""

    __slots__ = ("_attributes", "_number", "_serial")

    def __init__(self, number: int | None, attributes: dict[str, Any]) -> None:
        found = steps()
        found.begin(number)
        found.explicit = True
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
            steps().set(names.ERROR_TYPE, type(error).__qualname__)
        self.end()


def _forget() -> None:
    _thread.steps = None  # those of other threads notice when they begin their next step


on_new_flight(_forget)
