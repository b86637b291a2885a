"""The hot path in pure Python: begin and end of a span, and nothing else.

``native/`` holds the same class in C, as it does :mod:`phases`; both write the same bytes, and :mod:`spans` and
:mod:`steps` stand on either. What is rare (attributes set later, errors, a parent from elsewhere) is left to
methods of those, so that here nothing is called, allocated or looked up that could be spared.
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
_record = Struct("<64sQQ").pack_into
_S = TypeVar("_S", bound="PureSpan")

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
                    elif outer is None and (state.ambient is None or state.joined >= state.join_limit):
                        if state.ambient is not None:
                            state.outside += 1
                        trace = self._trace = (random_bits(64) or 1, random_bits(64), 1, "")
                        parent = 0
                    else:
                        parent = self._begin_at_top(None if outer is None else outer.context, False)
                        trace = self._trace
                    lead = self._family.lead
                    if self.attributes or not lead or self._rest is not None:
                        self._mark(flight, parent, None)
                    else:
                        try:
                            pair = self._slot = flight.free.pop()
                        except IndexError:
                            self._mark(flight, parent, None)
                        else:
                            high, low, more, _ = trace
                            identity = self.id = random_bits(64) or 1
                            self._size = 80
                            _quick(flight.mm, pair[0], more | lead | pair[1], high, low, identity, parent, thread.number,
                                   monotonic_ns(), 0, 0, 1)  # fmt: skip
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
        flight = self._flight
        if flight is None:
            return
        if self._token is not None:
            try:
                current_span.reset(self._token)
            except (ValueError, RuntimeError):
                pass  # closed in another context than it was opened in: an async generator ended by the collector
        if error is not None and kind is not GeneratorExit:
            self.fail(error)
        if self._rest is not None or self._slot is None or self._size != 80:
            self.end()
            return
        # What end() does, for a mark without attributes.
        self._flight = None
        pair = self._slot
        slot, mm, end, seq = pair[0], flight.mm, monotonic_ns(), flight.next_seq()
        _record(mm, flight.ring_at + seq % flight.cells * 192, mm[slot : slot + 64], end, seq + 1)
        mm[slot + 72] = 0
        flight.free.append(pair)

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
            if size > 80:
                mm[cell + 80 : cell + size] = mm[slot + 80 : slot + size]
            _record(mm, cell, mm[slot : slot + 64], end, seq + 1)
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


if TYPE_CHECKING or core is None:
    HotSpan = PureSpan
else:
    HotSpan = core.HotSpan
