"""The hot path in pure Python: begin and end of spans and phases, and nothing else.

``native/`` holds the same three classes in C; both write the same bytes, and the classes of :mod:`spans` and
:mod:`steps` stand on either. What is rare (attributes set later, errors, a parent from elsewhere, a step to be
opened) is left to methods of those, so that here nothing is called, allocated or looked up that could be spared.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar, Token
from struct import Struct
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.ids import random_bits
from aiobs.recorder import layout as at
from aiobs.recorder.compiled import core
from aiobs.recorder.flight import Flight
from aiobs.recorder.schema import Family
from aiobs.recorder.state import state

_quick = at.QUICK_HEAD.pack_into
_end_seq = at.END_SEQ.pack_into
_entry = at.STEP_ENTRY.pack_into
_count = at.STEP_COUNT.pack_into
_time = Struct("<Q").pack_into
_S = TypeVar("_S", bound="PureSpan")
_P = TypeVar("_P", bound="PurePhase")

Trace = tuple[int, int, int, str]
"""What the spans of a trace share: high and low half of its id, kind and flags of their heads, tracestate."""

current_span: ContextVar[Any] = ContextVar("aiobs_span", default=None)
"""The innermost span of ours that is entered here."""


class _Thread(threading.local):
    """What belongs to one thread: its number, and its training steps once it has any."""

    def __init__(self) -> None:
        self.number = threading.get_native_id() & 0xFFFFFFFF
        self.steps: Any = None


thread = _Thread()


def _renumber() -> None:
    thread.number = threading.get_native_id() & 0xFFFFFFFF


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renumber)


class PureSpan:
    """Begin and end of a span."""

    __slots__ = ("_family", "_flight", "_rest", "_size", "_slot", "_token", "_trace", "attributes", "id", "token")
    attributes: dict[str, Any]
    id: int
    token: object
    """What OpenTelemetry held as current when the span began."""
    _flight: Flight | None
    """None once it has ended."""
    _family: Family
    _trace: Trace
    _slot: tuple[int, int] | None
    """Its open-span mark; None before it begins."""
    _size: int
    """Bytes of the mark: the head and what attributes fit."""
    _rest: Any
    """What only some spans have; None for the others."""
    _token: Token[Any] | None

    def __enter__(self: _S) -> _S:
        flight = self._flight
        if flight is None:
            return self
        try:
            if self._slot is None:
                # Written out here: a span inside another of ours or on its own, with attributes seen before.
                steps = thread.steps if state.surrounded else None
                if self._rest is not None or state.foreign is not None or (steps is not None and steps.open):
                    self._begin(None, False, None)
                else:
                    outer = current_span.get()
                    if outer is not None and outer._flight is not None:
                        trace = self._trace = outer._trace
                        parent = outer.id
                    elif outer is None and state.ambient is None:
                        trace = self._trace = (random_bits(64) or 1, random_bits(64), 1, "")
                        parent = 0
                    else:
                        parent = self._begin_at_top(None if outer is None else outer.context, False)
                        trace = self._trace
                    if self.attributes or self._rest is not None or not self._family.lead or not flight.free:
                        self._mark(flight, parent, None)
                    else:
                        pair = self._slot = flight.free.pop()
                        identity = self.id = random_bits(64) or 1
                        self._size = 80
                        _quick(flight.mm, pair[0], trace[2] | self._family.lead | pair[1], trace[0], trace[1], identity,
                               parent, thread.number, monotonic_ns(), 0, 0, 1)  # fmt: skip
            self.token = None if state.foreign is None else state.foreign()[0]
            self._token = current_span.set(self)
        except Exception as error:
            self._flight = None
            swallow("recorder.span.begin", error)
        return self

    def start(self: _S) -> _S:
        """Begin without becoming current; :meth:`end` finishes it."""
        if self._flight is not None and self._slot is None:
            try:
                self._begin(None, False, None)
                self.token = None if state.foreign is None else state.foreign()[0]
            except Exception as error:
                self._flight = None
                swallow("recorder.span.begin", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flight is None:
            return
        if self._token is not None:
            try:
                current_span.reset(self._token)
            except (ValueError, RuntimeError):
                pass  # closed in another context than it was opened in: an async generator ended by the collector
            self._token = None
        if error is not None and kind is not GeneratorExit:
            self.fail(error)
        self.end()

    def end(self, end_ns: int | None = None) -> None:
        """Finish the span (monotonic ns; now by default). A second call does nothing."""
        flight, pair = self._flight, self._slot
        self._flight = None
        if flight is None or pair is None:
            return
        end = monotonic_ns() if end_ns is None else end_ns
        slot = pair[0]
        if self._rest is None:
            # The mark, whole, is the record; the end is what it lacks.
            mm, size, seq = flight.mm, self._size, flight.next_seq()
            cell = flight.ring_at + seq % flight.cells * 192
            mm[cell : cell + size] = mm[slot : slot + size]
            _end_seq(mm, cell + 64, end, seq + 1)
        else:
            self._end_whole(flight, slot, end)
        if slot:
            flight.mm[slot + 72] = 0
            flight.free.append(pair)

    # Of the class on top:
    def _begin(self, parent: Any, root: bool, start_ns: int | None) -> None:
        raise NotImplementedError

    def _begin_at_top(self, parent: Any, root: bool) -> int:
        raise NotImplementedError

    def _mark(self, flight: Flight, parent: int, start_ns: int | None) -> None:
        raise NotImplementedError

    def _end_whole(self, flight: Flight, slot: int, end: int) -> None:
        raise NotImplementedError

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed."""
        raise NotImplementedError


class PureSteps:
    """Begin and end of the phases of one thread's steps.

    Attributes:
        open: whether a step is open.
        start_ns: when its innermost open phase, or else it, began (monotonic).
        token: what OpenTelemetry held as current then.
    """

    __slots__ = (
        "_area", "_begun", "_count", "_flight", "_given", "_spare", "_stack", "_step_start", "open", "start_ns", "token",
    )  # fmt: skip

    def __init__(self) -> None:
        self.open = False
        self.start_ns = self._step_start = 0
        self.token: object = None
        self._flight: Flight | None = None
        self._spare: bytearray | None = None
        """Memory in place of an area, where all areas are taken."""
        self._area = 0
        self._count = self._begun = 0
        self._given = 0
        """The token given last."""
        self._stack: list[tuple[int, int, object, int]] = []
        """Open phases: index, start, what OpenTelemetry held around it, token."""

    def begin(self, number: int | None = None, start_ns: int | None = None) -> None:
        """Begin a step."""
        raise NotImplementedError

    def enter(self, phase: int, start_ns: int | None = None) -> int:
        """Begin a phase (id from ``phase_id``); opens a step where none is open. Returns a token for `leave`,
        which stays good when the phase moves to the next step."""
        start = monotonic_ns() if start_ns is None else start_ns
        flight = self._flight
        if not self.open or flight is not state.flight:
            self.begin(None, start)
            if not self.open:
                return -1
            flight = self._flight
        index = self._count
        self._begun += 1
        if index >= at.AREA_ENTRIES or flight is None:
            return -1
        stack, area = self._stack, self._area
        memory = self._spare or flight.mm
        _entry(memory, area + 88 + index * 24, phase, stack[-1][0] if stack else 0xFFFF, thread.number, start, 0)
        self._count = index + 1
        _count(memory, area + 80, index + 1, 0, self._begun)
        token = self._given = self._given + 1
        stack.append((index, start, self.token, token))
        self.start_ns = start
        if state.foreign is not None:
            self.token = state.foreign()[0]
        return token

    def leave(self, token: int, end_ns: int | None = None) -> None:
        """End the phase that `enter` gave this token for, now or at `end_ns`; a token of an earlier step is ignored."""
        end = monotonic_ns() if end_ns is None else end_ns
        stack, flight = self._stack, self._flight
        if not stack or not self.open or flight is None:
            return
        if stack[-1][3] != token and all(entry[3] != token for entry in stack):
            return
        memory, ends = self._spare or flight.mm, self._area + 104
        while True:
            index, _start, self.token, own = stack.pop()
            _time(memory, ends + index * 24, end)
            if own == token:
                break
        self.start_ns = stack[-1][1] if stack else self._step_start

    def _adopt(self) -> None:
        """Be the steps of the calling thread."""
        thread.steps = self


class PurePhase:
    """A phase as a context manager."""

    __slots__ = ("_entered", "_generation", "_id", "name")

    name: str
    _id: int
    """Its id in the flight record of `_generation`; 0 where none is open."""
    _generation: int

    def __init__(self) -> None:
        self._entered: dict[int, list[tuple[Any, int]]] = {}
        """By thread, as several may be inside the same phase: its steps and their token, innermost last."""

    def __enter__(self: _P) -> _P:
        found, token, number = None, -1, thread.number
        try:
            if self._generation != state.generation:
                self._prepare()
            if self._id:
                found = thread.steps or self._steps()
                token = found.enter(self._id)
        except Exception as error:
            swallow("recorder.phase.begin", error)
        if number in self._entered:
            self._entered[number].append((found, token))
        else:
            self._entered[number] = [(found, token)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._entered.get(thread.number)
        if entered:
            found, token = entered.pop()
            if found is not None:
                found.leave(token)

    def _prepare(self) -> None:
        raise NotImplementedError

    def _steps(self) -> Any:
        raise NotImplementedError


if TYPE_CHECKING or core is None:
    HotSpan = PureSpan
    HotSteps = PureSteps
    HotPhase = PurePhase
else:
    HotSpan = core.HotSpan
    HotSteps = core.HotSteps
    HotPhase = core.HotPhase
