"""What every exporter owes: nothing lost, nothing changed, nothing doubled, and no value that makes it fail."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aiobs.exporters import console, folder, jsonl, otlp, perfetto, prometheus
from aiobs.ids import random_span_id, random_trace_id
from aiobs.ports import LocalExporter, RemoteExporter
from aiobs.telemetry import Batch, Extra, Link, LogRow, Metric, Point, Resource, Route, Row, Shape, SpanEvent

ODD: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "minus": float("-inf"),
    "huge": 10**30,
    "huger": 10**5000,
    "none": None,
    "lone": "\ud800",
    "pair": "\ud83d\ude00",
    "control": "a\x00\x1b[31m\nb",
    "nested": {"list": [1, [2.5, {"x": None}], "\udfff"], "": float("nan")},
    "bytes": b"\xff\x00",
    "empty": [],
    "": "",
    "object": object(),
    "long": "x" * 100_000,
}


@dataclass
class Subject:
    """An exporter and how to read back what it wrote: (span id in hex, or its beginning; name) in order."""

    exporter: LocalExporter | RemoteExporter
    put: Callable[[Batch], None]
    spans: Callable[[], list[tuple[str, str]]]
    id_length: int = 16


def route(folder: Path, **environment: str) -> Route:
    return Route("run-1", run_name="n", run_dir=str(folder), environment=environment)


def remote(tmp_path: Path, protocol: str) -> Subject:
    exporter = otlp.create(
        route(tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_LOGS_EXPORTER="otlp", OTEL_METRICS_EXPORTER="otlp")
    )
    sent: list[bytes] = []

    def put(batch: Batch) -> None:
        sent.extend([body.content for body in exporter.encode(batch) if body.signal == "traces"])

    def spans() -> list[tuple[str, str]]:
        found = []
        for content in sent:
            if protocol == "http/json":
                groups = json.loads(content)["resourceSpans"]
                found += [(s["spanId"], s["name"]) for g in groups for c in g["scopeSpans"] for s in c["spans"]]
            else:
                request = ExportTraceServiceRequest.FromString(content)
                found += [
                    (s.span_id.hex(), s.name) for g in request.resource_spans for c in g.scope_spans for s in c.spans
                ]
        return found

    return Subject(exporter, put, spans)


def run_folder(tmp_path: Path) -> Subject:
    exporter = jsonl.create(route(tmp_path / "run"))

    def spans() -> list[tuple[str, str]]:
        damage = folder.Damage()
        found = [
            (row[2].hex(), row[0].name)
            for _, batch in folder.read_batches(tmp_path / "run", damage)
            for _, rows in batch.spans
            for row in rows
        ]
        assert not damage.lines
        return found

    return Subject(exporter, exporter.write, spans)


def chrome(tmp_path: Path) -> Subject:
    exporter = perfetto.create(route(tmp_path / "run"))

    def spans() -> list[tuple[str, str]]:
        text = (tmp_path / "run" / perfetto.FILE_NAME).read_text()
        events = json.loads(text if text.endswith("]\n") else text + "]")
        # Within one batch an outer span stands before inner ones; here they are told apart by start.
        found = sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"])
        return [(e["args"]["span_id"], e["name"]) for e in found]

    return Subject(exporter, exporter.write, spans)


def lines(tmp_path: Path) -> Subject:
    path = tmp_path / "console.txt"
    exporter = console.create(route(tmp_path, AIOBS_CONSOLE_FILE=str(path)))

    def spans() -> list[tuple[str, str]]:
        split = [line.split("  ") for line in path.read_text().splitlines()]
        return [(parts[4].partition("/")[2], parts[2]) for parts in split if len(parts) > 4 and "/" in parts[4]]

    return Subject(exporter, exporter.write, spans, 8)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "otlp protobuf": lambda path: remote(path, "http/protobuf"),
    "otlp json": lambda path: remote(path, "http/json"),
    "jsonl": run_folder,
    "perfetto": chrome,
    "console": lines,
}
LOCAL = ["jsonl", "perfetto", "console"]


def spans(count: int, extra: Extra | None = None, start: int = 10**18) -> list[Row]:
    shapes = [Shape("forward", keys=("n", "x"), types="qd"), Shape("step", scope="user", version="1")]
    rows: list[Row] = []
    for number in range(count):
        shape = shapes[number % 4 == 3]
        values = (number, number / 7) if shape.keys else ()
        at = start + number * 1000
        rows.append((shape, random_trace_id(), random_span_id(), random_span_id(), at, at + 500, values, extra))
    return rows


def expected(rows: list[Row], length: int) -> list[tuple[str, str]]:
    return [(row[2].hex()[:length], row[0].name) for row in rows]


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = SUBJECTS[request.param](tmp_path)
    yield made
    made.exporter.close()


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = SUBJECTS[request.param](tmp_path)
    yield made
    made.exporter.close()


def test_each_is_one_of_the_two_kinds(subject: Subject) -> None:
    assert isinstance(subject.exporter, LocalExporter) != isinstance(subject.exporter, RemoteExporter)


def test_every_span_comes_out_once_and_in_order(subject: Subject) -> None:
    first, second = spans(50), spans(20, start=2 * 10**18)
    subject.put(
        Batch(spans=[(Resource({"service.name": "a"}), first[:30]), (Resource({"service.name": "b"}), first[30:])])
    )
    subject.put(Batch(spans=[(Resource({"service.name": "a"}), second)]))
    found, wanted = subject.spans(), expected([*first, *second], subject.id_length)
    assert sorted(found) == sorted(wanted)
    for name in ("forward", "step"):  # OTLP puts spans of one scope together
        parts = [[pair for pair in pairs if pair[1] == name] for pairs in (found, wanted)]
        assert parts[0] == parts[1]


def test_odd_values_are_taken(subject: Subject) -> None:
    events, links = [SpanEvent("e\ud800", -1, ODD)], [Link(b"t" * 16, b"s" * 8, ODD)]
    extra = Extra(2, "failed\n\ud800", ODD, events, links, "a=b", 0x300)
    rows = spans(8, extra)
    keys = tuple(ODD)
    shape = Shape("odd\ud800", keys=keys, types=("qdsb" * 4)[: len(keys)])
    for _ in range(3):
        rows.append(
            (shape, random_trace_id(), random_span_id(), b"", 3 * 10**18, 3 * 10**18, tuple(ODD.values()), None)
        )
    points = [Point(ODD, -1, 1, value) for value in (math.nan, math.inf, 10**400, 2**70, -(2**70))]
    metrics = [Metric("m\ud800", "s", "d\ud800", kind, points) for kind in ("sum", "updown", "gauge")]
    resource = Resource(ODD)
    subject.put(Batch([(resource, rows)], [(resource, [LogRow(1, ODD, "e", 9, ODD)])], [(resource, metrics)]))
    assert sorted(pair[0] for pair in subject.spans()) == sorted(pair[0] for pair in expected(rows, subject.id_length))


def test_nothing_is_fine(subject: Subject) -> None:
    subject.put(Batch())
    subject.put(Batch(spans=[(Resource({}), [])]))
    rows = spans(1)
    subject.put(Batch(spans=[(Resource({}), rows)]))
    assert subject.spans() == expected(rows, subject.id_length)


def test_closing_twice_is_fine(subject: Subject) -> None:
    subject.put(Batch(spans=[(Resource({}), spans(1))]))
    subject.exporter.close()
    subject.exporter.close()


def test_what_is_after_a_mark_can_be_taken_back(local: Subject, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exporter: Any = local.exporter
    before, lost, after = spans(5), spans(5, start=2 * 10**18), spans(5, start=3 * 10**18)
    local.put(Batch(spans=[(Resource({}), before)]))
    mark = json.loads(json.dumps(exporter.mark()))
    local.put(Batch(spans=[(Resource({}), lost)]))
    exporter.rewind(mark)
    local.put(Batch(spans=[(Resource({}), after)]))
    assert sorted(local.spans()) == sorted(expected([*before, *after], local.id_length))


@pytest.mark.parametrize("name", LOCAL)
def test_the_next_agent_goes_on_from_the_mark_of_one_that_was_killed(name: str, tmp_path: Path) -> None:
    before, lost, after = spans(5), spans(5, start=2 * 10**18), spans(5, start=3 * 10**18)
    first = SUBJECTS[name](tmp_path)
    start: Any = json.loads(json.dumps(first.exporter.mark()))  # type: ignore[union-attr]
    first.put(Batch(spans=[(Resource({}), before)]))
    mark = json.loads(json.dumps(first.exporter.mark()))  # type: ignore[union-attr]
    first.put(Batch(spans=[(Resource({}), lost)]))
    drop(first)
    second = SUBJECTS[name](tmp_path)
    second.exporter.rewind(mark)  # type: ignore[union-attr]
    second.put(Batch(spans=[(Resource({}), after)]))
    assert sorted(second.spans()) == sorted(expected([*before, *after], second.id_length))
    drop(second)
    third = SUBJECTS[name](tmp_path)
    third.exporter.rewind(start)  # type: ignore[union-attr]
    third.put(Batch(spans=[(Resource({}), after)]))
    assert sorted(third.spans()) == sorted(expected(after, third.id_length))
    third.exporter.close()


@pytest.mark.parametrize("name", LOCAL)
def test_a_later_agent_adds_to_what_an_earlier_one_finished(name: str, tmp_path: Path) -> None:
    before, after = spans(5), spans(5, start=3 * 10**18)
    for rows in (before, after):
        subject = SUBJECTS[name](tmp_path)
        subject.exporter.rewind(None)  # type: ignore[union-attr]
        subject.put(Batch(spans=[(Resource({}), rows)]))
        subject.exporter.close()
    assert sorted(subject.spans()) == sorted(expected([*before, *after], subject.id_length))


def drop(subject: Subject) -> None:
    """Let go of its files as the death of the process would: without a last word."""
    exporter: Any = subject.exporter
    for file in [*getattr(exporter, "_files", {}).values(), getattr(exporter, "_file", None)]:
        if file is not None:
            file.close()


def test_prometheus_takes_them_too() -> None:
    exporter = prometheus.PrometheusExporter("127.0.0.1:0")
    try:
        assert isinstance(exporter, LocalExporter)
        points = [Point(ODD, 1, 2, value) for value in (math.nan, math.inf, 10**400, 2**70)]
        exporter.write(
            Batch(spans=[(Resource({}), spans(3))], metrics=[(Resource(ODD), [Metric("m", "s", "", "gauge", points)])])
        )
        exporter.rewind(exporter.mark())
    finally:
        exporter.close()
        exporter.close()
