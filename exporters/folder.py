"""Reads run folders, and files of the OpenTelemetry Collector's file exporter, back into what exporters take."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiobs.errors import RecordError
from aiobs.telemetry import (
    Batch,
    Exemplar,
    Extra,
    HistogramPoint,
    Link,
    LogRow,
    Metric,
    Point,
    Resource,
    Row,
    Shape,
    SpanEvent,
    Value,
)

SIGNALS = ("traces", "metrics", "logs")
_SHAPES = 10_000
_CUMULATIVE = (2, "2", "AGGREGATION_TEMPORALITY_CUMULATIVE")


class Damage:
    """What could not be read.

    Attributes:
        lines: broken lines, such as the last one of a disk that filled up.
        metrics: metrics that :class:`~aiobs.telemetry.Metric` has no place for (deltas, summaries, exponential
            histograms); aiobs itself writes none.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.metrics = 0


def signal_files(folder: Path, signal: str) -> list[Path]:
    """The files of `folder` that hold `signal` (traces, metrics or logs)."""
    return sorted(folder.glob(f"{signal}*.jsonl"))


def read_batches(folder: Path, damage: Damage) -> Iterator[tuple[str, Batch]]:
    """Every line of a run folder as (signal, batch): traces first, then metrics, then logs.

    What is no run folder but a single ``.jsonl`` file is read as well.

    Raises:
        RecordError: there is no such folder or file, or it cannot be read.
    """
    if not folder.exists():
        raise RecordError(str(folder), "there is no such run folder")
    reader = _Reader(damage)
    paths = [path for signal in SIGNALS for path in signal_files(folder, signal)] if folder.is_dir() else [folder]
    for path in paths:
        try:
            with path.open("rb") as lines:
                for line in lines:
                    if line.isspace():
                        continue
                    yield from reader.read(line)
        except OSError as error:
            raise RecordError(str(path), f"cannot be read ({error.strerror or error})") from error


class _Reader:
    """Keeps one object for each resource and shape, because encoders go by identity."""

    def __init__(self, damage: Damage) -> None:
        self._damage = damage
        self._resources: dict[str, Resource] = {}
        self._shapes: dict[tuple[Any, ...], Shape] = {}

    def read(self, line: bytes) -> Iterator[tuple[str, Batch]]:
        """The batch of each signal in a line; nothing for a broken one."""
        try:
            content = json.loads(line)
            batches = [
                ("traces", Batch(spans=self._groups(content, "Spans", "spans", self._span))),
                ("metrics", Batch(metrics=self._groups(content, "Metrics", "metrics", self._metric))),
                ("logs", Batch(logs=self._groups(content, "Logs", "logRecords", lambda record, _: _log(record)))),
            ]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._damage.lines += 1
            return
        yield from [(signal, batch) for signal, batch in batches if batch]

    def _groups(
        self, content: Any, level: str, name: str, read: Callable[[Any, Mapping[str, Any]], Any]
    ) -> list[tuple[Resource, list[Any]]]:
        groups = []
        for group in content.get(f"resource{level}") or ():
            items = [
                read(item, scope.get("scope") or {})
                for scope in group.get(f"scope{level}") or ()
                for item in scope.get(name) or ()
            ]
            groups.append((self._resource(group), [item for item in items if item is not None]))
        return groups

    def _resource(self, group: Mapping[str, Any]) -> Resource:
        pairs = (group.get("resource") or {}).get("attributes") or []
        key = json.dumps(pairs)
        if key not in self._resources:
            self._resources[key] = Resource(attributes(pairs))
        return self._resources[key]

    def _span(self, span: Mapping[str, Any], scope: Mapping[str, Any]) -> Row:
        found = attributes(span.get("attributes"))
        shape = self._shape(span, scope, found)
        start = int(span.get("startTimeUnixNano", 0))
        end = int(span.get("endTimeUnixNano", start))
        return (
            shape,
            _id(span["traceId"]),
            _id(span["spanId"]),
            _id(span.get("parentSpanId")),
            start,
            end,
            tuple(found.values()),
            _extra(span),
        )

    def _shape(self, span: Mapping[str, Any], scope: Mapping[str, Any], found: Mapping[str, Value]) -> Shape:
        types = "".join([_LETTERS.get(type(value), "j") for value in found.values()])
        kind, version = int(span.get("kind", 1)), scope.get("version", "")
        key = (span.get("name", ""), kind, scope.get("name", ""), version, tuple(found), types)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = Shape(*key)
        return shape

    def _metric(self, metric: Mapping[str, Any], _: Mapping[str, Any]) -> Metric | None:
        kind = next((kind for kind in ("sum", "gauge", "histogram") if kind in metric), None)
        if kind is None or metric[kind].get("aggregationTemporality", 2) not in _CUMULATIVE:
            self._damage.metrics += 1
            return None
        read: Callable[[Any], Any] = _histogram_point if kind == "histogram" else _point
        points: list[Any] = [read(point) for point in metric[kind].get("dataPoints") or ()]
        if kind == "sum" and not metric[kind].get("isMonotonic"):
            kind = "updown"
        return Metric(metric["name"], metric.get("unit", ""), metric.get("description", ""), kind, points)


_LETTERS: dict[type, str] = {int: "q", float: "d", bool: "b", str: "s"}


def _extra(span: Mapping[str, Any]) -> Extra | None:
    status = span.get("status") or {}
    extra = Extra(
        status=int(status.get("code", 0)),
        message=status.get("message", ""),
        events=[
            SpanEvent(event.get("name", ""), int(event.get("timeUnixNano", 0)), attributes(event.get("attributes")))
            for event in span.get("events") or ()
        ],
        links=[
            Link(_id(link["traceId"]), _id(link["spanId"]), attributes(link.get("attributes")))
            for link in span.get("links") or ()
        ],
        trace_state=span.get("traceState", ""),
        flags=int(span.get("flags", 0)),
    )
    plain = not (extra.status or extra.message or extra.events or extra.links or extra.trace_state or extra.flags)
    return None if plain else extra


def _log(record: Mapping[str, Any]) -> LogRow:
    return LogRow(
        int(record.get("timeUnixNano") or record.get("observedTimeUnixNano") or 0),
        value(record.get("body")),
        record.get("eventName", ""),
        int(record.get("severityNumber", 9)),
        attributes(record.get("attributes")),
        _id(record.get("traceId")),
        _id(record.get("spanId")),
    )


def _point(point: Mapping[str, Any]) -> Point:
    number = int(point["asInt"]) if "asInt" in point else float(point["asDouble"])
    start, end = int(point.get("startTimeUnixNano", 0)), int(point.get("timeUnixNano", 0))
    return Point(attributes(point.get("attributes")), start, end, number)


def _histogram_point(point: Mapping[str, Any]) -> HistogramPoint:
    exemplars = [
        Exemplar(
            float(exemplar.get("asDouble", exemplar.get("asInt", 0))),
            int(exemplar.get("timeUnixNano", 0)),
            _id(exemplar.get("traceId")),
            _id(exemplar.get("spanId")),
        )
        for exemplar in point.get("exemplars") or ()
    ]
    return HistogramPoint(
        attributes(point.get("attributes")),
        int(point.get("startTimeUnixNano", 0)),
        int(point.get("timeUnixNano", 0)),
        int(point.get("count", 0)),
        float(point.get("sum", 0)),
        float(point.get("min", 0)),
        float(point.get("max", 0)),
        tuple([float(bound) for bound in point.get("explicitBounds") or ()]),
        [int(count) for count in point.get("bucketCounts") or ()],
        exemplars,
    )


def attributes(pairs: Any) -> dict[str, Value]:
    """An OTLP attribute list as a map."""
    return {pair.get("key", ""): value(pair.get("value")) for pair in pairs or ()}


def value(any_value: Any) -> Value:
    """The Python value of an OTLP JSON ``AnyValue``."""
    for kind, content in (any_value or {}).items():
        if kind == "intValue":
            return int(content)
        if kind == "doubleValue":
            return float(content)
        if kind == "arrayValue":
            return [value(item) for item in content.get("values") or ()]
        if kind == "kvlistValue":
            return attributes(content.get("values"))
        if kind == "bytesValue":
            return b64decode(content)
        if kind in ("stringValue", "boolValue"):
            found: str | bool = content
            return found
    return None


def _id(text: str | None) -> bytes:
    return bytes.fromhex(text) if text else b""
