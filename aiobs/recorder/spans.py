"""Spans: the hot path.

A span is written where it happens: its begin as a mark in an open-span slot, its end as a record in the ring,
for which the slot's bytes are copied. Nothing here waits, encodes or allocates more than it must; the rarely
needed (attributes added later, events, links, errors) is kept apart in :meth:`Span._end_whole`.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.ids import random_bits
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.flight import Flight
from aiobs.recorder.schema import OWN_SCOPE, Family, families, family, json_bytes, plain
from aiobs.recorder.state import state, wake

_current: ContextVar[Span | None] = ContextVar("aiobs_span", default=None)
_new = object.__new__
_quick = at.QUICK_HEAD.pack_into
_end_seq = at.END_SEQ.pack_into

_SERVER, _CONSUMER = 2, 5
EVENT_LIMIT = 128
"""Events and links kept in one span; later ones are left out, counted as clipped."""


Trace = tuple[int, int, int, str]
"""What the spans of a trace share: high and low half of its id, kind and flags of their heads, tracestate."""
_NO_SLOT = (0, at.NO_SLOT << 16)


class _Thread(threading.local):
    """What belongs to one thread: its number, and its training steps once it has any."""

    def __init__(self) -> None:
        self.number = threading.get_native_id() & 0xFFFFFFFF
        self.steps: Any = None


_thread = _Thread()


class Span:
    """A piece of work with a beginning, an end, a name and attributes. A context manager: inside ``with`` it is
    current, so that spans begun there become its children. Make one with :func:`aiobs.span`.

    Attributes:
        attributes: what it was given so far; use :meth:`set` to change it.
        id: its span id as an int.
    """

    __slots__ = ("_family", "_flight", "_rest", "_size", "_slot", "_token", "_trace", "attributes", "id", "token")
    attributes: dict[str, Any]
    id: int
    token: object
    """What OpenTelemetry held as current when the span began."""
    _flight: Flight | None
    _family: Family
    _trace: Trace
    _slot: tuple[int, int] | None
    """Its open-span mark; None before it begins."""
    _size: int
    """Bytes of the mark: the head and what attributes fit."""
    _rest: _Rest | None
    _token: Token[Span | None] | None

    # -- begin ---------------------------------------------------------------------------------------------
    def __enter__(self) -> Span:
        flight = self._flight
        if flight is None:
            return self
        try:
            # The common case is written out here: a plain span inside another of ours or on its own. It is what
            # _begin does, without its calls.
            if self._slot is not None:
                pass
            elif state.surrounded or self.attributes:
                self._begin(None, False, None)
            else:
                outer = _current.get()
                if outer is not None and outer._flight is not None:
                    trace = self._trace = outer._trace
                    parent = outer.id
                elif outer is None and state.ambient is None and state.run is None:
                    trace = self._trace = (random_bits(64) or 1, random_bits(64), 1, "")
                    parent = 0
                else:
                    parent = self._begin_at_top(None if outer is None else outer.context, False)
                    trace = self._trace
                high, low, lead, _ = trace
                pair = self._slot = flight.free.pop() if flight.free else self._without_mark(flight, parent)
                slot = pair[0]
                if slot:
                    identity = self.id = random_bits(64) or 1
                    self._size = 80
                    _quick(flight.mm, slot, lead | self._family.lead | pair[1], high, low, identity, parent, _thread.number,
                           monotonic_ns(), 0, 0, 1)  # fmt: skip
            self.token = None if state.foreign is None else state.foreign()[0]
            self._token = _current.set(self)
        except Exception as error:
            self._flight = None
            swallow("recorder.span.begin", error)
        return self

    def start(self) -> Span:
        """Begin without becoming current; :meth:`end` finishes it."""
        if self._flight is not None and self._slot is None:
            try:
                self._begin(None, False, None)
            except Exception as error:
                self._flight = None
                swallow("recorder.span.begin", error)
        return self

    def _begin(self, parent: Context | None, root: bool, start_ns: int | None) -> None:
        flight = self._flight
        assert flight is not None
        outer = parent if parent is not None or root else innermost()
        if isinstance(outer, Span):
            self._trace, above = outer._trace, outer.id
        else:
            above = self._begin_at_top(outer, root)
        high, low, lead, _ = self._trace
        if self.attributes:
            schema, payload = self._family.encode(self.attributes, flight)
        else:
            schema, payload = self._family.bare.schema, b""
        size = len(payload)
        if size > at.CELL_PAYLOAD or not schema:
            # The mark names the span without attributes; the record will have them.
            self._more().changed = True
            size = 0
        self._size = 80 + size
        identity = self.id = random_bits(64) or 1
        start = monotonic_ns() if start_ns is None else start_ns
        pair = self._slot = flight.free.pop() if flight.free else self._without_mark(flight, above, start)
        slot = pair[0]
        if slot:
            mm = flight.mm
            if size:
                mm[slot + 80 : slot + 80 + size] = payload
            if self._rest is not None:
                lead |= self._rest.flags << 8
            _quick(mm, slot, lead | schema << 32 | pair[1], high, low, identity, above, _thread.number | size << 32, start, 0, 0, 1)

    def _begin_at_top(self, parent: Context | None, root: bool) -> int:
        """Set the trace where no span of ours is around: that of a given context, the run's, or a new one.

        Returns the parent's span id.
        """
        kind = self._family.entry["kind"]
        if parent is None and not root and kind not in (_SERVER, _CONSUMER) and state.ambient is not None:
            if state.joined < state.join_limit:
                state.joined += 1
                parent = state.ambient
            else:
                state.outside += 1
        if parent is None:
            self._trace = (random_bits(64) or 1, random_bits(64), at.SPAN, "")
            if state.run is not None:
                self.link(state.run)
            return 0
        lead = at.SPAN | (at.FLAG_IN_STEP << 8 if parent.in_step else 0)
        high, low = int.from_bytes(parent.trace_id[:8], "big"), int.from_bytes(parent.trace_id[8:], "big")
        self._trace = (high, low, lead, parent.trace_state)
        if parent.remote:
            self._more().flags |= at.FLAG_REMOTE
        return int.from_bytes(parent.span_id, "big")

    def _without_mark(self, flight: Flight, parent: int, start: int = 0) -> tuple[int, int]:
        """Begin while every slot is taken: the span is known only once it has ended."""
        flight.add(at.UNMARKED)
        self.id = random_bits(64) or 1
        self._more().unmarked = (parent, start or monotonic_ns())
        self._more().changed = True
        return _NO_SLOT

    # -- end -----------------------------------------------------------------------------------------------
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        flight = self._flight
        if flight is None:
            return
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                pass  # closed in another context than it was opened in: an async generator ended by the collector
        if error is not None and kind is not GeneratorExit:
            self.fail(error)
        self.end()

    def end(self, end_ns: int | None = None) -> None:
        """Finish the span (monotonic ns; now by default). A second call does nothing."""
        flight = self._flight
        pair = self._slot
        self._flight = None
        if flight is None or pair is None:
            return
        end = monotonic_ns() if end_ns is None else end_ns
        try:
            slot = pair[0]
            mm = flight.mm
            if self._rest is None:
                # The mark, whole, is the record; the slot's number and the end are what it lacks.
                size = self._size
                seq = flight.next_seq()
                cell = flight.ring_at + seq % flight.cells * 192
                mm[cell : cell + size] = mm[slot : slot + size]
                _end_seq(mm, cell + 64, end, seq + 1)
            else:
                self._end_whole(flight, slot, end)
            if slot:
                mm[slot + 72] = 0
                flight.free.append(pair)
        except Exception as error:
            flight.add(at.UNRECORDED)
            swallow("recorder.span.end", error)

    def _end_whole(self, flight: Flight, slot: int, end: int) -> None:
        """Write the record of a span that has more than the attributes it began with, or too many for a mark."""
        rest = self._rest
        assert rest is not None
        number, thread, flags = at.NO_SLOT, _thread.number, 0
        if slot:
            _, flags, number, schema, _, _, _, parent, thread, size, _, start, _, _, _ = at.HEAD.unpack_from(flight.mm, slot)
            payload = flight.mm[slot + 80 : slot + 80 + size]
        else:
            parent, start = rest.unmarked
        if rest.changed:
            schema, payload = self._family.encode(self.attributes, flight)
        flags |= rest.flags | (self._trace[2] >> 8)
        if self._trace[3]:
            rest.state = self._trace[3]
        extra = rest.encode(flight)
        if extra:
            flags |= at.FLAG_EXTRA
            payload += extra
        flight.write(at.SPAN, flags, number, schema, self._trace[:2], self.id, parent, thread, start, 0, end, payload)

    @property
    def start_ns(self) -> int:
        """When it began, monotonic ns; 0 before and, for an unmarked one, after."""
        if self._flight is None or self._slot is None or not self._slot[0]:
            return self._rest.unmarked[1] if self._rest is not None else 0
        return int(at.HEAD.unpack_from(self._flight.mm, self._slot[0])[11])

    # -- what a span can be told ---------------------------------------------------------------------------
    @property
    def context(self) -> Context:
        """Ids of the span, for links and for carrying to other processes."""
        high, low, lead, trace_state = self._trace
        return Context(
            high.to_bytes(8, "big") + low.to_bytes(8, "big"),
            self.id.to_bytes(8, "big"),
            in_step=lead != at.SPAN,
            trace_state=trace_state,
        )

    @property
    def recording(self) -> bool:
        """Whether the span is open and being recorded."""
        return self._flight is not None

    def _more(self) -> _Rest:
        if self._rest is None:
            self._rest = _Rest()
        return self._rest

    def set(self, key: str, value: Any) -> None:
        """Set an attribute. Values: str, bool, int, float, or lists of these; others become text."""
        if self._flight is not None:
            self.attributes[key] = value
            self._more().changed = True

    def set_all(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        if self._flight is not None and attributes:
            self.attributes.update(attributes)
            self._more().changed = True

    def event(self, name: str, attributes: Mapping[str, Any] | None = None, time_ns: int | None = None) -> None:
        """Note that something happened now (or at `time_ns`, monotonic) within the span; on disk at once."""
        if self._flight is not None:
            write_event(self.context, name, attributes, time_ns)

    def link(self, context: Context, attributes: Mapping[str, Any] | None = None) -> None:
        """Point to another span."""
        if self._flight is not None:
            self._more().links.append([context.trace_id.hex(), context.span_id.hex(), dict(attributes or {})])

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed; an exception is recorded with type, message and stack trace."""
        if self._flight is None:
            return
        rest = self._more()
        rest.flags |= at.FLAG_ERROR
        if isinstance(error, str):
            rest.message = error
            return
        rest.message = _message(error)
        self.set(names.ERROR_TYPE, _type_name(error))
        self.event(
            names.EVENT_EXCEPTION,
            {
                names.EXCEPTION_TYPE: _type_name(error),
                names.EXCEPTION_MESSAGE: rest.message,
                names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(type(error), error, error.__traceback__)),
            },
        )

    def rename(self, name: str) -> None:
        """Give the span another name; while it is open its mark keeps the first one."""
        flight, known = self._flight, self._family
        if flight is not None and known is not None:
            entry = known.entry
            self._family = family(name, entry["kind"], entry["scope"], entry["version"], flight)
            self._more().changed = True

    def succeed(self) -> None:
        """Set the status to OK explicitly; without it the status is unset, which reads as no error."""
        if self._flight is not None:
            self._more().flags |= at.FLAG_OK


class _Rest:
    """What only some spans have."""

    __slots__ = ("changed", "events", "flags", "links", "message", "state", "unmarked")

    def __init__(self) -> None:
        self.changed = False
        self.unmarked = (0, 0)  # parent and start of a span without a mark
        self.flags = 0
        self.message = ""
        self.state = ""
        self.events: list[list[Any]] = []
        self.links: list[list[Any]] = []

    def encode(self, flight: Flight) -> bytes:
        extra: dict[str, Any] = {}
        if self.message:
            extra["message"] = self.message[: flight.clip_at]
        for key, items in (("events", self.events), ("links", self.links)):
            if items:
                if len(items) > EVENT_LIMIT:
                    flight.add(at.CLIPPED, len(items) - EVENT_LIMIT)
                extra[key] = [[a, b, plain(c, flight.clip_at)] for a, b, c in items[:EVENT_LIMIT]]
        if self.state:
            extra["state"] = self.state
        return json_bytes(extra) if extra else b""


class _Nothing(Span):
    """What stands in for a span where nothing is recorded: every method does nothing, cheaply."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


NOTHING = _new(_Nothing)
NOTHING._flight = None
NOTHING._trace, NOTHING.id, NOTHING._slot = (0, 1, 0, ""), 1, None
NOTHING.attributes = {}


def span(name: str, /, **attributes: Any) -> Span:
    """A span, to be used with ``with``; see :class:`Span`.

    Args:
        name: low-cardinality name; put what varies into attributes.
        attributes: str, bool, int, float or lists of these.
    """
    flight = state.flight
    if flight is None:
        if state.sleeping is None:
            return NOTHING
        flight = wake()
        if flight is None:
            return NOTHING
    if flight.mm[64] & 1:
        return NOTHING
    it = _new(Span)
    it._flight = flight
    it.attributes = attributes
    it._slot = it._rest = it._token = None
    it._family = families.get(name) or _own_family(name, flight)
    return it


def _own_family(name: str, flight: Flight) -> Family:
    return family(str(name), 1, OWN_SCOPE, "", flight)


def start_span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: int = 1,
    parent: Context | None = None,
    root: bool = False,
    links: Iterable[Context] = (),
    start_ns: int | None = None,
    scope: str = OWN_SCOPE,
    version: str = "",
    current: bool = False,
) -> Span:
    """Begin a span now (or at `start_ns`, monotonic) and return it; the caller calls :meth:`Span.end`, or uses it
    with ``with``.

    Args:
        kind: OTLP span kind, 1 internal to 5 consumer.
        parent: its parent; by default the innermost open span. `root`: it begins a trace of its own.
        current: make it the parent of spans begun from now on in this context, until ``__exit__``.
    """
    flight = state.flight or (wake() if state.sleeping is not None else None)
    if flight is None or flight.mm[64] & 1:
        return NOTHING
    it = _new(Span)
    it._flight = flight
    it._slot = it._rest = it._token = it.token = None
    it.attributes = dict(attributes or {})
    try:
        it._family = family(name, kind, scope, version, flight)
        for link in links:
            it.link(link)
        it._begin(parent, root, start_ns)
        if current:
            it._token = _current.set(it)
        it.token = state.foreign()[0] if state.foreign is not None else None
    except Exception as error:
        it._flight = None
        swallow("recorder.start_span", error)
    return it


# -- what surrounds a span ---------------------------------------------------------------------------------
def innermost() -> Span | Context | None:
    """The innermost thing open here: span of ours, phase of a step in this thread, OpenTelemetry's span."""
    found: Span | Context | None = _current.get()
    steps = _thread.steps
    if found is not None and found._flight is None:
        found = found.context
    elif steps is not None and steps.open and (found is None or found.start_ns < steps.start_ns):
        found = None
    token = None
    if found is None and steps is not None and steps.open:
        token = steps.token
        found = steps.context()
    elif isinstance(found, Span):
        token = found.token
    if state.foreign is not None:
        now, theirs = state.foreign()
        if theirs is not None and (found is None or now is not token):
            return theirs
    return found


def current() -> Context | None:
    """Context of the innermost open span, ours or OpenTelemetry's, of this thread or task; else the process's."""
    found = innermost()
    if isinstance(found, Span):
        return found.context
    return found or state.ambient


def current_native() -> tuple[Context, object] | None:
    """Context of our innermost open span or phase and the token OpenTelemetry had when it began, or None."""
    found: Span | None = _current.get()
    steps = _thread.steps
    if steps is not None and steps.open and (found is None or found.start_ns < steps.start_ns):
        return steps.context(), steps.token
    return (found.context, found.token) if found is not None and found._flight is not None else None


def write_event(owner: Context, name: str, attributes: Mapping[str, Any] | None, time_ns: int | None = None) -> None:
    """Record an event of the span `owner`, at `time_ns` (monotonic; now by default)."""
    flight = state.flight
    if flight is None:
        return
    try:
        schema, payload = family(name, 1, OWN_SCOPE, "", flight).encode(attributes or {}, flight)
        trace = int.from_bytes(owner.trace_id[:8], "big"), int.from_bytes(owner.trace_id[8:], "big")
        flags = at.FLAG_IN_STEP if owner.in_step else 0
        flight.write(at.EVENT, flags, at.NO_SLOT, schema, trace, int.from_bytes(owner.span_id, "big"), 0,
                     _thread.number, monotonic_ns() if time_ns is None else time_ns, 0, 0, payload)  # fmt: skip
    except Exception as error:
        flight.add(at.UNRECORDED)
        swallow("recorder.event", error)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise
        return "<its text cannot be had>"
