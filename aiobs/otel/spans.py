"""Our spans as OpenTelemetry sees them, and OpenTelemetry's as we see them."""

from __future__ import annotations

import traceback
import types
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from aiobs import names, recorder
from aiobs.propagation import Context
from aiobs.recorder import Span

HOME = "_aiobs_home"
"""Attribute of an OpenTelemetry span that is in our record: its context there. It differs from the span's own
where the span began a trace of its own in the user's set-up but lies within a span of ours."""

KINDS = {kind: kind.value + 1 for kind in trace.SpanKind}
"""OTLP's number of each span kind."""

_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_UNSAMPLED = trace.TraceFlags(trace.TraceFlags.DEFAULT)


def context_of(span: object) -> Context | None:
    """Where a span of OpenTelemetry stands in our record, or None where it is no valid span."""
    home: Context | None = getattr(span, HOME, None)
    if home is not None:
        return home
    if not isinstance(span, trace.Span):
        return None
    theirs = span.get_span_context()
    if not theirs.is_valid:
        return None
    return Context(
        theirs.trace_id.to_bytes(16, "big"),
        theirs.span_id.to_bytes(8, "big"),
        sampled=bool(theirs.trace_flags & trace.TraceFlags.SAMPLED),
        remote=theirs.is_remote,
        trace_state=theirs.trace_state.to_header() if theirs.trace_state else "",
    )


def span_context(context: Context) -> trace.SpanContext:
    """`context` in OpenTelemetry's words."""
    return trace.SpanContext(
        int.from_bytes(context.trace_id, "big"),
        int.from_bytes(context.span_id, "big"),
        is_remote=context.remote,
        trace_flags=_SAMPLED if context.sampled else _UNSAMPLED,
        trace_state=TraceState.from_header([context.trace_state]) if context.trace_state else None,
    )


def monotonic(wall_ns: int) -> int:
    """A wall-clock time of OpenTelemetry (Unix ns) on our clock."""
    return max(wall_ns - recorder.wall_offset(), 0)


class SeenSpan(trace.Span):
    """A span of ours that is OpenTelemetry's current span while it is open: what it is told, we record.

    It is not OpenTelemetry's to end, to rename, or to declare successful.
    """

    _theirs: trace.SpanContext | None = None

    def __init__(self, ours: Span | Context) -> None:
        self.ours = ours
        self._ours = ours if isinstance(ours, Span) else None

    @property
    def _aiobs_home(self) -> Context:
        ours = self.ours
        return ours.context if isinstance(ours, Span) else ours

    def get_span_context(self) -> trace.SpanContext:
        if self._theirs is None:
            self._theirs = span_context(self._aiobs_home)
        return self._theirs

    def is_recording(self) -> bool:
        return self._ours is None or self._ours.recording

    def set_attribute(self, key: str, value: Any) -> None:
        if self._ours is not None:
            self._ours.set(key, value)
        elif self._aiobs_home.in_step and (steps := recorder.steps()).open:
            steps.set(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        if self.is_recording():
            at_ns = None if timestamp is None else monotonic(timestamp)
            recorder.write_event(self._aiobs_home, name, dict(attributes or {}), at_ns)

    def add_link(self, context: trace.SpanContext, attributes: Any = None) -> None:
        linked = context_of(trace.NonRecordingSpan(context))
        if self._ours is not None and linked is not None:
            self._ours.link(linked, attributes)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - no longer a fact of the conventions
    ) -> None:
        kind = type(exception)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        told = {
            names.EXCEPTION_TYPE: module + kind.__qualname__,
            names.EXCEPTION_MESSAGE: str(exception),
            names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(kind, exception, exception.__traceback__)),
        }
        self.add_event(names.EVENT_EXCEPTION, {**told, **(attributes or {})}, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code, text = (status.status_code, status.description) if isinstance(status, Status) else (status, description)
        if code is StatusCode.ERROR and self._ours is not None:
            self._ours.fail(text or "")

    def update_name(self, name: str) -> None:  # noqa: ARG002
        return None

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002
        return None


class MadeSpan(SeenSpan):
    """A span begun through OpenTelemetry's API where the program set up no provider: recorded by us alone."""

    _ours: Span
    _status = StatusCode.UNSET
    _description = ""

    def __init__(self, ours: Span, record_exception: bool, set_status_on_exception: bool) -> None:
        self.ours = self._ours = ours
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception

    def is_recording(self) -> bool:
        return self._ours.recording

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._ours.set_all(attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code, text = (status.status_code, status.description) if isinstance(status, Status) else (status, description)
        if self._status is not StatusCode.OK and code is not StatusCode.UNSET:
            self._status, self._description = code, text or ""

    def update_name(self, name: str) -> None:
        self._ours.rename(name)

    def end(self, end_time: int | None = None) -> None:
        if self._status is StatusCode.ERROR:
            self._ours.fail(self._description)
        elif self._status is StatusCode.OK:
            self._ours.succeed()
        self._ours.end(None if end_time is None else monotonic(end_time))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: types.TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        self.end()

    def failed(self, error: BaseException) -> None:
        """Note that `error` left the span, as far as whoever began it wants that noted."""
        if self.is_recording():
            if self._record_exception:
                self.record_exception(error)
            if self._set_status_on_exception:
                self.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
