"""A batch to OTLP request bodies in protobuf, each of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from aiobs.ports import Body
from aiobs.telemetry import Batch, Resource, Row

from .protobuf import attributes, delimited, string, tag, varint
from .protobuf_logs import log_record
from .protobuf_metrics import metric
from .protobuf_spans import Add, encoder, long_way

BODY_BYTES = 3 << 20
"""A body is closed once it is larger: receivers commonly refuse messages above 4 MiB."""

SCOPE = "aiobs"
"""Instrumentation scope of the logs and metrics, which the agent makes itself."""

T = TypeVar("T")
_resources: WeakKeyDictionary[Resource, bytes] = WeakKeyDictionary()


def bodies(batch: Batch, signals: Iterable[str]) -> Iterator[Body]:
    """The request bodies for those parts of `batch` that are among `signals` (traces, metrics, logs)."""
    if "traces" in signals:
        yield from _trace_bodies(batch)
    if "metrics" in signals:
        yield from _record_bodies("metrics", batch.metrics, metric, lambda one: len(one.points))
    if "logs" in signals:
        yield from _record_bodies("logs", batch.logs, log_record, lambda _: 1)


def _resource(resource: Resource) -> bytes:
    """Field 1 of ``ResourceSpans``, ``ResourceMetrics`` and ``ResourceLogs``."""
    known = _resources.get(resource)
    if known is None:
        known = _resources[resource] = delimited(1, attributes(1, resource.attributes))
    return known


def _scope(name: str, version: str) -> bytes:
    """Field 1 of ``ScopeSpans``, ``ScopeMetrics`` and ``ScopeLogs``."""
    return delimited(1, string(1, name) + string(2, version))


class _Envelope:
    """A request under construction; spans of one scope lie together, as OTLP wants."""

    def __init__(self) -> None:
        self.items = 0
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, resource: bytes, scopes: dict[bytes, list[bytes]], items: int) -> None:
        inner: list[bytes] = [resource]
        for scope, records in scopes.items():
            size = len(scope) + sum(map(len, records))
            inner += (tag(2, 2) + varint(size), scope, *records)
        size = sum(map(len, inner))
        self._parts += (tag(1, 2) + varint(size), *inner)
        self.size += size
        self.items += items

    def body(self, signal: str) -> Body:
        return Body(signal, b"".join(self._parts), self.items)


def _trace_bodies(batch: Batch) -> Iterator[Body]:
    envelope = _Envelope()
    for resource, rows in batch.spans:
        first = 0
        while first < len(rows):
            first += _fill(envelope, _resource(resource), rows, first)
            if envelope.size >= BODY_BYTES:
                yield envelope.body("traces")
                envelope = _Envelope()
    if envelope.items:
        yield envelope.body("traces")


def _fill(envelope: _Envelope, resource: bytes, rows: list[Row], first: int) -> int:
    """Add rows from number `first` until the envelope is full; returns how many."""
    room = BODY_BYTES - envelope.size
    scopes: dict[bytes, list[bytes]] = {}
    plan: dict[Any, tuple[Callable[[Row, Add], int], Add]] = {}
    count = 0
    for row in rows[first:] if first else rows:
        try:
            encode, add = plan[row[0]]
        except KeyError:
            shape = row[0]
            encode = encoder(shape)
            add = scopes.setdefault(_scope(shape.scope, shape.version), []).extend
            if encode is not long_way:
                plan[shape] = encode, add
        room -= encode(row, add)
        count += 1
        if room <= 0:
            break
    envelope.add(resource, scopes, count)
    return count


def _record_bodies(
    signal: str, groups: list[tuple[Resource, list[T]]], encode: Callable[[T], bytes], weigh: Callable[[T], int]
) -> Iterator[Body]:
    scope = _scope(SCOPE, "")
    envelope = _Envelope()
    for resource, records in groups:
        encoded: list[bytes] = []
        size = items = 0
        for record in records:
            encoded.append(delimited(2, encode(record)))
            size += len(encoded[-1])
            items += weigh(record)
            if envelope.size + size >= BODY_BYTES:
                envelope.add(_resource(resource), {scope: encoded}, items)
                yield envelope.body(signal)
                envelope = _Envelope()
                encoded, size, items = [], 0, 0
        if encoded:
            envelope.add(_resource(resource), {scope: encoded}, items)
    if envelope.size:
        yield envelope.body(signal)
