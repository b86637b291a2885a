"""A run folder for programs that have an OpenTelemetry SDK of their own: ``OTEL_TRACES_EXPORTER=aiobs_jsonl``.

The folder is ``AIOBS_RUN_DIR``, else ``aiobs-runs/<time>-<service name>`` in the working directory.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link as SdkLink

from aiobs import names
from aiobs.errors import ExportError
from aiobs.telemetry import LINK_REMOTE_FLAGS, Batch, Extra, Link, Resource, Route, Row, Shape, SpanEvent

from .jsonl import JsonlExporter, create

logger = logging.getLogger("aiobs")


class AiobsJsonlSpanExporter(SpanExporter):
    """Writes the SDK's spans to a run folder, made with the first of them.

    Args:
        folder: the run folder, instead of the one that the environment says.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder or os.environ.get("AIOBS_RUN_DIR", "")
        self._exporter: JsonlExporter | None = None
        self._lock = threading.Lock()
        self._shapes: dict[tuple[str, int, str, str], Shape] = {}
        self._resources: dict[int, tuple[object, Resource]] = {}
        self._process = os.getpid()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans."""
        if self._process != os.getpid():
            self._begin_in_child()
        with self._lock:
            try:
                self._writer(spans).write(self._batch(spans))
            except (ExportError, OSError) as error:
                logger.warning("aiobs: %d spans are lost: %s", len(spans), error)
                return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's interface
        """Nothing to do: a span that was exported is in the file."""
        return True

    def shutdown(self) -> None:
        """Close the files."""
        with self._lock:
            if self._exporter is not None:
                self._exporter.close()
                self._exporter = None

    def _begin_in_child(self) -> None:
        """A forked child writes files of its own; the lock may have been held at the fork."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        if self._exporter is not None:
            self._exporter.close()
            self._exporter = None

    def _writer(self, spans: Sequence[ReadableSpan]) -> JsonlExporter:
        if self._exporter is None:
            service = str(spans[0].resource.attributes.get(names.SERVICE_NAME, "") if spans else "") or "service"
            if not self._folder:
                safe = "".join([c if c.isalnum() or c in "-_." else "-" for c in service])
                self._folder = str(Path("aiobs-runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{safe}")
            self._exporter = create(Route(run_id=uuid.uuid4().hex, run_name=service, run_dir=self._folder))
        return self._exporter

    def _batch(self, spans: Sequence[ReadableSpan]) -> Batch:
        groups: dict[int, list[Row]] = {}
        for span in spans:
            kept = self._resources.get(id(span.resource))
            if kept is None:
                # The SDK's resource is kept too, or another could get its address.
                kept = span.resource, Resource(_values(span.resource.attributes))
                self._resources[id(span.resource)] = kept
            groups.setdefault(id(span.resource), []).append(self._row(span))
        return Batch(spans=[(self._resources[key][1], rows) for key, rows in groups.items()])

    def _row(self, span: ReadableSpan) -> Row:
        scope = span.instrumentation_scope
        key = span.name, span.kind.value + 1, scope.name if scope else "", (scope.version or "") if scope else ""
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) > 1000:
                self._shapes.clear()
            shape = self._shapes[key] = Shape(*key)
        context, parent = span.get_span_context(), span.parent
        if context is None:
            raise ExportError(f"span {span.name!r} has no context")
        extra = Extra(
            status=span.status.status_code.value,
            message=span.status.description or "",
            attributes=_values(span.attributes),
            events=[SpanEvent(event.name, event.timestamp, _values(event.attributes)) for event in span.events],
            links=list(_links(span.links)),
            trace_state=context.trace_state.to_header(),
            flags=LINK_REMOTE_FLAGS if parent is not None and parent.is_remote else 0,
        )
        start = span.start_time or 0
        return (
            shape,
            context.trace_id.to_bytes(16, "big"),
            context.span_id.to_bytes(8, "big"),
            parent.span_id.to_bytes(8, "big") if parent is not None else b"",
            start,
            span.end_time or start,
            (),
            extra,
        )


def _links(links: Iterable[SdkLink]) -> Iterable[Link]:
    for link in links:
        context = link.context
        yield Link(context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"), _values(link.attributes))


def _values(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(attributes or {})
