"""What the encoders write is what the official OTLP classes read, for any value whatsoever."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aiobs.exporters import json_bodies, protobuf, protobuf_bodies
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
    Shape,
    SpanEvent,
)

REQUESTS: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BY_LETTER = {"q": INT64, "d": st.floats(), "b": st.booleans(), "s": TEXT}
SIMPLE = st.one_of(st.none(), *BY_LETTER.values(), st.binary(max_size=20))
NESTED = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
ATTRIBUTES = st.dictionaries(TEXT, NESTED, max_size=4)
IDS = st.binary(min_size=8, max_size=8)
TRACES = st.binary(min_size=16, max_size=16)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    keys = draw(st.lists(TEXT, unique=True, max_size=6))
    types = "".join(draw(st.lists(st.sampled_from("qdbsj"), min_size=len(keys), max_size=len(keys))))
    return Shape(draw(TEXT), draw(st.integers(1, 5)), draw(TEXT), draw(TEXT), tuple(keys), types)


EXTRAS = st.none() | st.builds(
    Extra,
    status=st.integers(0, 2),
    message=TEXT,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, TEXT, TIMES, ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(Link, TRACES, IDS, ATTRIBUTES), max_size=2),
    trace_state=TEXT,
    flags=st.integers(0, 2**32 - 1),
)


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Rows of few shapes, each shape several times, so that generated code and remembered values are used."""
    known = draw(st.lists(shapes(), min_size=1, max_size=3))
    made = []
    for shape in draw(st.lists(st.sampled_from(known), max_size=12)):
        values = tuple(draw(BY_LETTER.get(letter, NESTED)) for letter in shape.types)
        parent = draw(st.just(b"") | IDS)
        made.append((shape, draw(TRACES), draw(IDS), parent, draw(TIMES), draw(TIMES), values, draw(EXTRAS)))
    return made


METRICS = st.one_of(
    st.builds(
        Metric,
        TEXT,
        TEXT,
        TEXT,
        st.sampled_from(["sum", "updown", "gauge"]),
        st.lists(st.builds(Point, ATTRIBUTES, TIMES, TIMES, INT64 | st.floats()), max_size=3),
    ),
    st.builds(
        Metric,
        TEXT,
        TEXT,
        TEXT,
        st.just("histogram"),
        st.lists(
            st.builds(
                HistogramPoint,
                ATTRIBUTES,
                TIMES,
                TIMES,
                TIMES,
                st.floats(),
                st.floats(),
                st.floats(),
                st.just((0.5, 1.0)),
                st.lists(TIMES, min_size=3, max_size=3),
                st.lists(st.builds(Exemplar, st.floats(), TIMES, TRACES, IDS), max_size=2),
            ),
            max_size=2,
        ),
    ),
)
LOGS = st.builds(LogRow, TIMES, NESTED, TEXT, st.integers(1, 24), ATTRIBUTES, st.just(b"") | TRACES, st.just(b"") | IDS)
RESOURCES = st.builds(Resource, ATTRIBUTES)
BATCHES = st.builds(
    Batch,
    spans=st.lists(st.tuples(RESOURCES, rows()), max_size=2),
    logs=st.lists(st.tuples(RESOURCES, st.lists(LOGS, max_size=3)), max_size=2),
    metrics=st.lists(st.tuples(RESOURCES, st.lists(METRICS, max_size=3)), max_size=2),
)


def python_value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(any_value, kind)
    if kind == "array_value":
        return [python_value(item) for item in content.values]
    if kind == "kvlist_value":
        return python_map(content.values)
    return content


def python_map(pairs: Any) -> dict[str, Any]:
    assert len({pair.key for pair in pairs}) == len(pairs), "attribute keys must be unique"
    return {pair.key: python_value(pair.value) for pair in pairs}


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return (found == expected and math.copysign(1, found) == math.copysign(1, expected)) or (
            math.isnan(found) and math.isnan(expected)
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[k], v) for k, v in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and bool(found == expected)


def check_span(span: Any, scope: Any, row: Any) -> None:
    shape, trace, own, parent, start, end, values, extra = row
    assert (span.name, span.kind, scope.name, scope.version) == (shape.name, shape.kind, shape.scope, shape.version)
    assert (span.trace_id, span.span_id, span.parent_span_id) == (trace, own, parent)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (start, end)
    extra = extra or Extra()
    assert same(python_map(span.attributes), {**dict(zip(shape.keys, values, strict=True)), **extra.attributes})
    assert (span.status.code, span.status.message) == (extra.status, extra.message)
    assert (span.trace_state, span.flags) == (extra.trace_state, extra.flags)
    assert [(e.name, e.time_unix_nano) for e in span.events] == [(e.name, e.time_ns) for e in extra.events]
    assert all(same(python_map(e.attributes), x.attributes) for e, x in zip(span.events, extra.events, strict=True))
    assert [(one.trace_id, one.span_id) for one in span.links] == [(one.trace_id, one.span_id) for one in extra.links]
    assert all(same(python_map(e.attributes), x.attributes) for e, x in zip(span.links, extra.links, strict=True))


def check_point(found: Any, point: Any) -> None:
    assert same(python_map(found.attributes), dict(point.attributes))
    assert (found.start_time_unix_nano, found.time_unix_nano) == (point.start_ns, point.time_ns)
    if isinstance(point, Point):
        assert same(getattr(found, found.WhichOneof("value")), point.value)
        return
    assert (found.count, list(found.bucket_counts), tuple(found.explicit_bounds)) == (
        point.count,
        point.counts,
        point.bounds,
    )
    assert same(found.sum, point.sum)
    if point.count:
        assert same(found.min, point.min)
        assert same(found.max, point.max)
    else:
        assert not found.HasField("min")
    for exemplar, expected in zip(found.exemplars, point.exemplars, strict=True):
        assert same(exemplar.as_double, expected.value)
        assert (exemplar.time_unix_nano, exemplar.trace_id, exemplar.span_id) == (
            expected.time_ns,
            expected.trace_id,
            expected.span_id,
        )


def check_metric(found: Any, metric: Metric) -> None:
    assert (found.name, found.unit, found.description) == (metric.name, metric.unit, metric.description)
    kind = found.WhichOneof("data")
    assert kind == {"updown": "sum"}.get(metric.kind, metric.kind)
    content = getattr(found, kind)
    if kind != "gauge":
        assert content.aggregation_temporality == 2
    if kind == "sum":
        assert content.is_monotonic == (metric.kind == "sum")
    for point, expected in zip(content.data_points, metric.points, strict=True):
        check_point(point, expected)


def check_log(found: Any, row: LogRow) -> None:
    assert (found.time_unix_nano, found.severity_number, found.event_name) == (
        row.time_ns,
        row.severity,
        row.event_name,
    )
    assert (found.trace_id, found.span_id) == (row.trace_id, row.span_id)
    assert same(python_value(found.body), row.body)
    assert same(python_map(found.attributes), dict(row.attributes))


def check(batch: Batch, requests: dict[str, Any]) -> None:
    """That `requests`, official messages by signal, hold exactly `batch`."""
    spans = [
        (group.resource, scope.scope, span)
        for group in requests["traces"].resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]
    expected = [(resource, row) for resource, rows in batch.spans for row in by_scope(rows)]
    assert len(spans) == len(expected)
    for (resource, scope, span), (original, row) in zip(spans, expected, strict=True):
        assert same(python_map(resource.attributes), dict(original.attributes))
        check_span(span, scope, row)
    metrics = [
        metric
        for group in requests["metrics"].resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
    ]
    for found_metric, metric in zip(metrics, [m for _, ms in batch.metrics for m in ms], strict=True):
        check_metric(found_metric, metric)
    logs = [log for group in requests["logs"].resource_logs for scope in group.scope_logs for log in scope.log_records]
    for found_log, log in zip(logs, [row for _, rows in batch.logs for row in rows], strict=True):
        check_log(found_log, log)


def by_scope(rows: list[Any]) -> list[Any]:
    scopes = list(dict.fromkeys((row[0].scope, row[0].version) for row in rows))
    return sorted(rows, key=lambda row: scopes.index((row[0].scope, row[0].version)))


def from_json(signal: str, content: bytes) -> Any:
    """The official message of an OTLP JSON body: ids are hexadecimal there, base64 for the protobuf library."""

    def convert(node: Any) -> Any:
        if isinstance(node, list):
            return [convert(item) for item in node]
        if isinstance(node, dict):
            return {
                key: base64.b64encode(bytes.fromhex(value)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else convert(value)
                for key, value in node.items()
            }
        return node

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    return json_format.ParseDict(convert(json.loads(content, parse_constant=refuse)), REQUESTS[signal]())


@settings(max_examples=60, deadline=None)
@given(BATCHES)
def test_protobuf_is_what_the_official_classes_read(batch: Batch) -> None:
    requests = {signal: made() for signal, made in REQUESTS.items()}
    for body in protobuf_bodies.bodies(batch, REQUESTS):
        requests[body.signal].MergeFromString(body.content)
    check(batch, requests)


@settings(max_examples=60, deadline=None)
@given(BATCHES)
def test_json_is_what_the_official_classes_read(batch: Batch) -> None:
    requests = {signal: made() for signal, made in REQUESTS.items()}
    for body in json_bodies.bodies(batch, REQUESTS):
        assert b"\n" not in body.content
        requests[body.signal].MergeFrom(from_json(body.signal, body.content))
    check(batch, requests)


def span_batch(count: int, size: int) -> Batch:
    shape = Shape("s", keys=("text",), types="s")
    rows = [
        (shape, bytes(15) + b"\1", n.to_bytes(8, "big"), b"", n, n, (str(n) * size,), None) for n in range(1, count + 1)
    ]
    return Batch(spans=[(Resource({"service.name": "a"}), rows[: count // 2]), (Resource({}), rows[count // 2 :])])


@pytest.mark.parametrize("encode", [protobuf_bodies.bodies, json_bodies.bodies])
def test_a_large_batch_becomes_several_bodies_below_four_mebibytes(encode: Any) -> None:
    batch = span_batch(9000, 400)
    bodies = list(encode(batch, ["traces"]))
    assert len(bodies) > 2
    assert all(len(body.content) < 4 << 20 for body in bodies)
    assert sum(body.items for body in bodies) == 9000
    found = []
    for body in bodies:
        request = ExportTraceServiceRequest()
        if encode is json_bodies.bodies:
            request = from_json("traces", body.content)
        else:
            request.ParseFromString(body.content)
        spans = [s.start_time_unix_nano for g in request.resource_spans for c in g.scope_spans for s in c.spans]
        assert len(spans) == body.items
        found += spans
    assert found == list(range(1, 9001))


def test_a_row_that_is_not_as_its_shape_says_is_encoded_all_the_same() -> None:
    shape = Shape("s", keys=("number", "text", "real", "flag", "any"), types="qsdbj")
    odd: list[tuple[Any, ...]] = [
        ("seven", 7, "x", None, 1),
        (1.5, None, None, 2, {"a": [1]}),
        (True, b"raw", 3, 0, ()),
        ([1], {"k": 1}, [2.0], "no", None),
        (1, "whole", 2.0, True, 1),
        (2**80, "\ud800", float("nan"), False, "\ud83d\ude00"),
    ]
    rows: Any = [(shape, b"t" * 16, b"s" * 8, b"", 1, 2, values, None) for values in odd]
    rows.append((shape, b"t" * 16, b"s" * 8, b"", -5, 2**70, odd[0], None))
    rows.append((shape, b"short", b"much too long", b"p", 1, 2, (1,), None))
    batch = Batch(spans=[(Resource({}), rows)])
    for body in (*protobuf_bodies.bodies(batch, ["traces"]), *json_bodies.bodies(batch, ["traces"])):
        if body.content.startswith(b"{"):
            request = from_json("traces", body.content)
        else:
            request = ExportTraceServiceRequest.FromString(body.content)
        spans = request.resource_spans[0].scope_spans[0].spans
        found = [[python_map(span.attributes).get(key) for key in shape.keys] for span in spans]
        assert found[0] == ["seven", 7, "x", None, 1]
        assert found[1] == [1.5, None, None, 2, {"a": [1]}]
        assert found[2][1] == b"raw"
        assert found[3] == [[1], {"k": 1}, [2.0], "no", None]
        assert found[4] == [1, "whole", 2.0, True, 1]
        assert (found[5][0], found[5][1], found[5][4]) == (str(2**80), "\ufffd", "\U0001f600")
        assert math.isnan(found[5][2])
        assert spans[6].start_time_unix_nano == 0
        assert spans[6].end_time_unix_nano == 2**64 - 1
        assert (len(spans[7].trace_id), len(spans[7].span_id)) == (16, 8)


def test_equal_values_of_other_types_keep_their_type() -> None:
    counted, flag = Shape("a", keys=("x",), types="q"), Shape("b", keys=("x",), types="b")
    rows: Any = [
        (shape, b"t" * 16, b"s" * 8, b"", 1, 2, (value,), None)
        for _ in range(3)
        for shape, value in ((flag, True), (counted, 1), (flag, False), (counted, 0))
    ]
    for encode in (protobuf_bodies.bodies, json_bodies.bodies):
        (body,) = encode(Batch(spans=[(Resource({}), rows)]), ["traces"])
        read = (
            ExportTraceServiceRequest.FromString
            if encode is protobuf_bodies.bodies
            else lambda b: from_json("traces", b)
        )
        values = [
            python_map(span.attributes)["x"] for span in read(body.content).resource_spans[0].scope_spans[0].spans
        ]
        assert all(map(same, values, [True, 1, False, 0] * 3))


def test_values_that_no_protocol_holds_become_text() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, {1: 2, None: {"deep": loop}}, 10**5000, object(), {"\ud800": 1}, {1, 2}, range(3), complex(1)):
        batch = Batch(logs=[(Resource({"x": value}), [LogRow(1, value, attributes={"x": value})])])  # type: ignore[dict-item, arg-type]
        for body in (*protobuf_bodies.bodies(batch, ["logs"]), *json_bodies.bodies(batch, ["logs"])):
            if body.content.startswith(b"{"):
                from_json("logs", body.content)
            else:
                ExportLogsServiceRequest.FromString(body.content)


@given(st.binary(max_size=60))
def test_reading_foreign_bytes_ends_with_fields_or_a_value_error(content: bytes) -> None:
    try:
        fields = list(protobuf.fields(content))
    except ValueError:
        return
    assert all(isinstance(value, (int, bytes)) for _, value in fields)
