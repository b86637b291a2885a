"""The tracer behind OpenTelemetry's API where the program set up no provider: it records natively.

It needs the API alone, costs a fraction of the SDK's, and steps aside for good the moment the program sets a
provider of its own, also for tracers that libraries took before.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.context.context import Context as TheirContext

from aiobs import recorder
from aiobs.guard import swallow
from aiobs.ids import random_bits
from aiobs.otel.context import JoinedContext
from aiobs.otel.spans import KINDS, MadeSpan, context_of, monotonic, span_context
from aiobs.propagation import Context

ALWAYS = frozenset({"", "always_on", "parentbased_always_on"})


class Tracer(trace.Tracer):
    """Makes spans of one instrumentation scope."""

    def __init__(self, scope: str, version: str | None, joined: JoinedContext) -> None:
        self._scope = scope or ""
        self._version = version or ""
        self._unsampled = joined.unsampled
        self._sampler = _sampler(
            os.environ.get("OTEL_TRACES_SAMPLER", ""), os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")
        )

    def start_span(
        self,
        name: str,
        context: TheirContext | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        try:
            return self._start(
                name, context, kind, attributes, links or (), start_time, record_exception, set_status_on_exception
            )
        except Exception as error:
            swallow("otel.start_span", error)
            return trace.INVALID_SPAN

    def _start(
        self,
        name: str,
        context: TheirContext | None,
        kind: trace.SpanKind,
        attributes: Any,
        links: Sequence[trace.Link],
        start_time: int | None,
        record_exception: bool,
        set_status_on_exception: bool,
    ) -> trace.Span:
        # Without a given context the recorder finds the parent; only that nothing unsampled is around is ours to see.
        parent = self._unsampled() if context is None else context_of(trace.get_current_span(context))
        if self._sampler is None:
            sampled = parent is None or parent.sampled
        else:
            parent = context_of(trace.get_current_span(context))
            trace_id = int.from_bytes(parent.trace_id, "big") if parent is not None else random_bits(128)
            result = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
            sampled = result.decision.is_sampled()
        if not sampled:
            return trace.NonRecordingSpan(_not_recorded(parent))
        ours = recorder.start_span(
            name,
            attributes,
            kind=KINDS[kind],
            parent=parent,
            root=context is not None and parent is None,
            start_ns=None if start_time is None else monotonic(start_time),
            scope=self._scope,
            version=self._version,
        )
        if not ours.recording:
            return trace.NonRecordingSpan(span_context(parent)) if parent is not None else trace.INVALID_SPAN
        made = MadeSpan(ours, record_exception, set_status_on_exception)
        for link in links:
            made.add_link(link.context, link.attributes)
        return made

    def start_as_current_span(  # type: ignore[override]
        self, name: str, *args: Any, end_on_exit: bool = True, **kwargs: Any
    ) -> _Current:
        """A context manager; the API's proxy, through which alone this is reached, makes a decorator of it."""
        return _Current(self, name, args, kwargs, end_on_exit)


class _Current:
    """Begins a span and has it current inside ``with``. A generator would do, at three times the cost."""

    __slots__ = ("_args", "_end_on_exit", "_kwargs", "_name", "_span", "_token", "_tracer")

    def __init__(
        self, tracer: Tracer, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], end_on_exit: bool
    ) -> None:
        # The API has end_on_exit as its ninth parameter, after the seven that start_span shares with it.
        self._end_on_exit = args[7] if len(args) > 7 else end_on_exit
        self._tracer, self._name, self._args, self._kwargs = tracer, name, args[:7], kwargs

    def __enter__(self) -> trace.Span:
        span = self._span = self._tracer.start_span(self._name, *self._args, **self._kwargs)
        self._token = attach(trace.set_span_in_context(span))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: types.TracebackType | None
    ) -> None:
        detach(self._token)
        span = self._span
        if isinstance(error, Exception) and isinstance(span, MadeSpan):
            span.failed(error)
        if self._end_on_exit:
            span.end()


def _not_recorded(parent: Context | None) -> trace.SpanContext:
    trace_id = int.from_bytes(parent.trace_id, "big") if parent is not None else random_bits(128) or 1
    return trace.SpanContext(trace_id, random_bits(64) or 1, is_remote=False)


@functools.lru_cache(maxsize=4)
def _sampler(name: str, argument: str) -> Any:  # noqa: ARG001 - the argument is part of the key
    """The SDK's sampler of that name, or None where everything is sampled that its parent does not exclude."""
    if name.lower() in ALWAYS:
        return None
    try:
        from opentelemetry.sdk.trace import sampling
    except ImportError:
        return None
    return sampling._get_from_env_or_default()  # pyright: ignore[reportPrivateUsage]
