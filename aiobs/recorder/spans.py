"""Spans: what a span can be told, on top of the hot path's begin and end.

A span is written where it happens: its begin as a mark in an open-span slot, its end as a record in the ring,
for which the slot's bytes are copied. :mod:`hot` does that for a plain span; here is what it leaves over.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.ids import random_bits
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.around import innermost
from aiobs.recorder.flight import Flight
from aiobs.recorder.hot import HotSpan, thread
from aiobs.recorder.rest import Rest, message_of, type_name, write_event
from aiobs.recorder.schema import family
from aiobs.recorder.state import state

_quick = at.QUICK_HEAD.pack_into
_CELL_PAYLOAD = at.CELL_PAYLOAD
_SERVER, _CONSUMER = 2, 5
_NO_SLOT = (0, at.NO_SLOT << 16)


class Span(HotSpan):
    """A piece of work with a beginning, an end, a name and attributes. A context manager: inside ``with`` it is
    current, so that spans begun there become its children. Make one with :func:`aiobs.span`.

    Attributes:
        attributes: what it was given so far; use :meth:`set` to change it.
        id: its span id as an int.
    """

    __slots__ = ()
    _rest: Rest | None

    # -- begin ---------------------------------------------------------------------------------------------
    def _begin(self, parent: Context | None, root: bool, start_ns: int | None) -> None:
        flight = self._flight
        assert flight is not None
        outer = parent if parent is not None or root else innermost()
        if isinstance(outer, Span):
            self._trace, above = outer._trace, outer.id
        else:
            above = self._begin_at_top(outer, root)
        self._mark(flight, above, start_ns)

    def _mark(self, flight: Flight, parent: int, start_ns: int | None) -> None:
        """Write the mark of a span with attributes or anything else that is not plain."""
        high, low, lead, _ = self._trace
        if self.attributes:
            schema, payload = self._family.encode(self.attributes, flight)
        else:
            schema, payload = self._family.bare.schema, b""
        size = len(payload)
        if size > _CELL_PAYLOAD or not schema:
            # The mark names the span without attributes; the record will have them.
            self._more().changed = True
            schema = self._family.bare.schema
            size = 0
        self._size = 80 + size
        self.id = random_bits(64) or 1
        start = monotonic_ns() if start_ns is None else start_ns
        try:
            pair = self._slot = flight.free.pop()
        except IndexError:
            # Every slot is taken: the span is known only once it has ended.
            flight.add(at.UNMARKED)
            rest = self._more()
            rest.unmarked, rest.changed = (parent, start), True
            self._slot = _NO_SLOT
            return
        slot = pair[0]
        mm = flight.mm
        if size:
            mm[slot + 80 : slot + 80 + size] = payload
        if self._rest is not None:
            lead |= self._rest.flags << 8
        first, sixth = lead | schema << 32 | pair[1], thread.number | size << 32
        _quick(mm, slot, first, high, low, self.id, parent, sixth, start, 0, 0, 1)

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
            return 0
        lead = at.SPAN | (at.FLAG_IN_STEP << 8 if parent.in_step else 0)
        high, low = int.from_bytes(parent.trace_id[:8], "big"), int.from_bytes(parent.trace_id[8:], "big")
        self._trace = (high, low, lead, parent.trace_state)
        if parent.remote:
            self._more().flags |= at.FLAG_REMOTE
        return int.from_bytes(parent.span_id, "big")

    # -- end -----------------------------------------------------------------------------------------------
    def _end_whole(self, flight: Flight, slot: int, end: int) -> None:
        """Write the record of a span that has more than the attributes it began with, or too many for a mark."""
        try:
            rest = self._more()
            number, owner, flags = at.NO_SLOT, thread.number, 0
            schema, payload = 0, b""
            if slot:
                head = at.HEAD.unpack_from(flight.mm, slot)
                _, flags, number, schema, _, _, _, parent, owner, size, _, start, _, _, _ = head
                payload = flight.mm[slot + at.HEAD_BYTES : slot + at.HEAD_BYTES + size]
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
            flight.write(
                at.SPAN, flags, number, schema, self._trace[:2], self.id, parent, owner, start, 0, end, payload
            )
        except Exception as error:
            flight.add(at.UNRECORDED)
            swallow("recorder.span.end", error)

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

    def _more(self) -> Rest:
        if self._rest is None:
            self._rest = Rest()
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
        try:
            rest.message = message_of(error)
            self.set(names.ERROR_TYPE, type_name(error))
            stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.event(
                names.EVENT_EXCEPTION,
                {
                    names.EXCEPTION_TYPE: type_name(error),
                    names.EXCEPTION_MESSAGE: rest.message,
                    names.EXCEPTION_STACKTRACE: stack,
                },
            )
            if state.failing is not None:
                state.failing(error, self.context)
        except Exception as fault:
            swallow("recorder.span.fail", fault)

    def rename(self, name: str) -> None:
        """Give the span another name; while it is open its mark keeps the first one."""
        flight = self._flight
        if flight is not None:
            entry = self._family.entry
            self._family = family(name, entry["kind"], entry["scope"], entry["version"], flight)
            self._more().changed = True

    def succeed(self) -> None:
        """Set the status to OK explicitly; without it the status is unset, which reads as no error."""
        if self._flight is not None:
            self._more().flags |= at.FLAG_OK
