"""A batch to OTLP request bodies in JSON, each one line of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from aiobs.ports import Body
from aiobs.telemetry import Batch, Resource, Row

from .json_signals import log_record, metric
from .json_spans import encoder, long_way
from .json_values import attributes, quoted
from .protobuf_bodies import SCOPE

BODY_CHARACTERS = 3 << 20
"""A body is closed once it is longer."""

T = TypeVar("T")


def bodies(batch: Batch, signals: Iterable[str]) -> Iterator[Body]:
    """The request bodies for those parts of `batch` that are among `signals` (traces, metrics, logs)."""
    if "traces" in signals:
        yield from _trace_bodies(batch)
    if "metrics" in signals:
        yield from _record_bodies("metrics", batch.metrics, metric, lambda one: len(one.points))
    if "logs" in signals:
        yield from _record_bodies("logs", batch.logs, log_record, lambda _: 1)


class _Envelope:
    """A request under construction; `outer` and `inner` are OTLP's names of its levels."""

    def __init__(self, signal: str) -> None:
        self.signal = signal
        self.outer = {"traces": "Spans", "metrics": "Metrics", "logs": "Logs"}[signal]
        self.inner = {"traces": "spans", "metrics": "metrics", "logs": "logRecords"}[signal]
        self.items = 0
        self.size = 0
        self._parts: list[str] = []

    def add(self, resource: Resource, scopes: dict[tuple[str, str], list[str]], items: int) -> None:
        listed = ",".join(
            [
                f'{{"scope":{{"name":{quoted(name)},"version":{quoted(version)}}},"{self.inner}":[{",".join(records)}]}}'
                for (name, version), records in scopes.items()
            ]
        )
        head = f'{{"resource":{{"attributes":{attributes(resource.attributes)}}},"scope{self.outer}":['
        self._parts.append(f"{head}{listed}]}}")
        self.size += len(self._parts[-1])
        self.items += items

    def body(self) -> Body:
        text = f'{{"resource{self.outer}":[{",".join(self._parts)}]}}'
        return Body(self.signal, text.encode(), self.items)


def _trace_bodies(batch: Batch) -> Iterator[Body]:
    envelope = _Envelope("traces")
    for resource, rows in batch.spans:
        first = 0
        while first < len(rows):
            first += _fill(envelope, resource, rows, first)
            if envelope.size >= BODY_CHARACTERS:
                yield envelope.body()
                envelope = _Envelope("traces")
    if envelope.items:
        yield envelope.body()


def _fill(envelope: _Envelope, resource: Resource, rows: list[Row], first: int) -> int:
    """Add rows from number `first` until the envelope is full; returns how many."""
    room = BODY_CHARACTERS - envelope.size
    scopes: dict[tuple[str, str], list[str]] = {}
    plan: dict[Any, tuple[Callable[[Row], str], Callable[[str], None]]] = {}
    count = 0
    for row in rows[first:] if first else rows:
        try:
            encode, add = plan[row[0]]
        except KeyError:
            shape = row[0]
            encode = encoder(shape)
            add = scopes.setdefault((shape.scope, shape.version), []).append
            if encode is not long_way:
                plan[shape] = encode, add
        text = encode(row)
        add(text)
        room -= len(text)
        count += 1
        if room <= 0:
            break
    envelope.add(resource, scopes, count)
    return count


def _record_bodies(
    signal: str, groups: list[tuple[Resource, list[T]]], encode: Callable[[T], str], weigh: Callable[[T], int]
) -> Iterator[Body]:
    envelope = _Envelope(signal)
    for resource, records in groups:
        encoded: list[str] = []
        size = items = 0
        for record in records:
            encoded.append(encode(record))
            size += len(encoded[-1])
            items += weigh(record)
            if envelope.size + size >= BODY_CHARACTERS:
                envelope.add(resource, {(SCOPE, ""): encoded}, items)
                yield envelope.body()
                envelope = _Envelope(signal)
                encoded, size, items = [], 0, 0
        if encoded:
            envelope.add(resource, {(SCOPE, ""): encoded}, items)
    if envelope.size:
        yield envelope.body()
