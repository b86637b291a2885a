"""The span processor that takes an OpenTelemetry SDK's spans into our flight record.

It has no thread and no queue: a span's begin is marked and its end recorded where they happen, so both survive
whatever ends the process. Attributes set between the two are on record once the span ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context.context import Context as TheirContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from aiobs import names, recorder
from aiobs.guard import swallow
from aiobs.otel.spans import HOME, KINDS, context_of, monotonic
from aiobs.propagation import Context

OPEN_LIMIT = 65_536
"""Open spans remembered; beyond it the oldest, probably never to be ended, are forgotten."""

_SAMPLED = trace.TraceFlags.SAMPLED


@dataclass(slots=True)
class _Open:
    """A span between its begin and its end: its mark, place and parent in our record, and who began it.

    Found again by the identity of its span context `own`, as ids can repeat: the SDK's generator draws them from
    the stream that programs seed.
    """

    own: trace.SpanContext
    slot: int
    home: Context
    parent: bytes
    remote: bool
    pid: int
    generation: int


class FlightProcessor(SpanProcessor):
    """Records sampled spans, whatever provider they come from, once each."""

    def __init__(self) -> None:
        self.live = True
        self._open: dict[int, _Open] = {}

    def on_start(self, span: Span, parent_context: TheirContext | None = None) -> None:
        try:
            if self.live and span.get_span_context().trace_flags & _SAMPLED:
                self._begin(span, parent_context)
        except Exception as error:
            swallow("otel.on_start", error)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            context = span.get_span_context()
            if self.live and context is not None and context.trace_flags & _SAMPLED:
                self._end(span, context)
        except Exception as error:
            swallow("otel.on_end", error)

    def shutdown(self) -> None:
        """Nothing to do: everything is on record."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002
        """Nothing to do: everything is on record."""
        return True

    def _begin(self, span: Span, parent_context: TheirContext | None) -> None:
        own = span.get_span_context()
        around = _around(span, parent_context)
        state = own.trace_state.to_header() if own.trace_state else ""
        span_id = own.span_id.to_bytes(8, "big")
        if around is None:
            home, parent, remote = Context(own.trace_id.to_bytes(16, "big"), span_id, trace_state=state), b"", False
        else:
            home = Context(around.trace_id, span_id, in_step=around.in_step, trace_state=state)
            parent, remote = around.span_id, around.remote
        setattr(span, HOME, home)
        scope = span.instrumentation_scope
        slot = recorder.open_mark(
            span.name,
            KINDS[span.kind],
            scope.name if scope else "",
            (scope.version or "") if scope else "",
            home.trace_id,
            span_id,
            parent or bytes(8),
            monotonic(span.start_time or 0),
            _attributes(span),
            in_step=home.in_step,
            remote=remote,
        )
        if len(self._open) >= OPEN_LIMIT:
            self._open.pop(next(iter(self._open)), None)
        self._open[id(own)] = _Open(own, slot, home, parent, remote, os.getpid(), recorder.state.generation)

    def _end(self, span: ReadableSpan, own: trace.SpanContext) -> None:
        known = self._open.pop(id(own), None)
        if known is None:
            known = _late(span, own)
        elif known.pid != os.getpid():
            return  # begun before a fork: the parent process ends it too, and its record is the one that counts
        home = known.home
        # Most spans have neither, and the read-only views of nothing take time.
        events = span.events if getattr(span, "_events", True) else ()
        links = [_link(link) for link in span.links] if getattr(span, "_links", True) else []
        own_trace = own.trace_id.to_bytes(16, "big")
        if own_trace != home.trace_id:
            links.append((own_trace, home.span_id, {names.LINK: names.LINK_OWN_TRACE}))
        attributes = _attributes(span)
        for key, dropped in (
            (names.DROPPED_ATTRIBUTES, span.dropped_attributes),
            (names.DROPPED_EVENTS, span.dropped_events),
            (names.DROPPED_LINKS, span.dropped_links),
        ):
            if dropped:
                attributes[key] = dropped
        scope = span.instrumentation_scope
        recorder.write_span(
            known.slot if known.generation == recorder.state.generation else -1,
            span.name,
            KINDS[span.kind],
            scope.name if scope else "",
            (scope.version or "") if scope else "",
            home.trace_id,
            home.span_id,
            known.parent or bytes(8),
            monotonic(span.start_time or 0),
            monotonic(span.end_time or 0),
            attributes,
            status=span.status.status_code.value,
            message=span.status.description or "",
            events=[(event.name, monotonic(event.timestamp), _plain(event.attributes)) for event in events],
            links=links,
            trace_state=home.trace_state,
            in_step=home.in_step,
            remote=known.remote,
        )


def _around(span: Span, parent_context: TheirContext | None) -> Context | None:
    """What a beginning span lies in: a given context says so itself, else the innermost open span of all."""
    if parent_context is None:
        around = recorder.innermost()
        if around is not None:
            return around if isinstance(around, Context) else around.context
    else:
        around = context_of(trace.get_current_span(parent_context))
        if around is not None:
            return around
    return None if span.parent is None else context_of(trace.NonRecordingSpan(span.parent))


def _late(span: ReadableSpan, own: trace.SpanContext) -> _Open:
    """For a span that began before we joined: it stands where OpenTelemetry has it."""
    around = None if span.parent is None else context_of(trace.NonRecordingSpan(span.parent))
    state = own.trace_state.to_header() if own.trace_state else ""
    home = Context(own.trace_id.to_bytes(16, "big"), own.span_id.to_bytes(8, "big"), trace_state=state)
    parent, remote = (b"", False) if around is None else (around.span_id, around.remote)
    return _Open(own, -1, home, parent, remote, os.getpid(), -1)


def _attributes(span: ReadableSpan) -> dict[str, Any]:
    """A copy of a span's attributes; taken from inside, because through its read-only views it costs as much as
    all the rest that is done here."""
    inside = getattr(getattr(span, "_attributes", None), "_dict", None)
    return dict(inside if inside is not None else span.attributes or {})


def _link(link: trace.Link) -> tuple[bytes, bytes, dict[str, Any]]:
    to = link.context
    return to.trace_id.to_bytes(16, "big"), to.span_id.to_bytes(8, "big"), _plain(link.attributes)


def _plain(attributes: Any) -> dict[str, Any]:
    return dict(attributes) if attributes else {}
