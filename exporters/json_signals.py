"""Log records and metrics to OTLP JSON."""

from __future__ import annotations

from aiobs.telemetry import Exemplar, HistogramPoint, LogRow, Metric, Point

from . import legal
from .json_values import any_value, attributes, number, quoted
from .protobuf_logs import severity_text

_CUMULATIVE = '"aggregationTemporality":2'


def log_record(row: LogRow) -> str:
    """A ``LogRecord``."""
    time_ns = legal.unsigned(row.time_ns)
    parts = [f'{{"timeUnixNano":"{time_ns}","observedTimeUnixNano":"{time_ns}","severityNumber":{int(row.severity)}']
    if severity_text(row.severity):
        parts.append(f'"severityText":"{severity_text(row.severity)}"')
    if row.body is not None:
        parts.append(f'"body":{any_value(row.body)}')
    if row.event_name:
        parts.append(f'"eventName":{quoted(row.event_name)}')
    if row.trace_id:
        parts.append(f'"traceId":"{legal.identifier(row.trace_id, 16).hex()}"')
    if row.span_id:
        parts.append(f'"spanId":"{legal.identifier(row.span_id, 8).hex()}"')
    parts.append(f'"attributes":{attributes(row.attributes)}}}')
    return ",".join(parts)


def metric(one: Metric) -> str:
    """A ``Metric``."""
    points = ",".join(
        [_histogram_point(point) if isinstance(point, HistogramPoint) else _number_point(point) for point in one.points]
    )
    content = f'{{"dataPoints":[{points}]'
    if one.kind == "gauge":
        content = f'"gauge":{content}}}'
    elif one.kind == "histogram":
        content = f'"histogram":{content},{_CUMULATIVE}}}'
    else:
        monotonic = ',"isMonotonic":true' if one.kind == "sum" else ""
        content = f'"sum":{content},{_CUMULATIVE}{monotonic}}}'
    names = f'"name":{quoted(one.name)},"description":{quoted(one.description)},"unit":{quoted(one.unit)}'
    return f"{{{names},{content}}}"


def _times(point: Point | HistogramPoint) -> str:
    start, end = legal.unsigned(point.start_ns), legal.unsigned(point.time_ns)
    return f'"attributes":{attributes(point.attributes)},"startTimeUnixNano":"{start}","timeUnixNano":"{end}"'


def _number_point(point: Point) -> str:
    value = point.value
    if isinstance(value, int) and legal.INT64_MIN <= value <= legal.INT64_MAX:
        return f'{{{_times(point)},"asInt":"{int(value)}"}}'
    return f'{{{_times(point)},"asDouble":{number(legal.number(value))}}}'


def _histogram_point(point: HistogramPoint) -> str:
    counts = ",".join([f'"{legal.unsigned(count)}"' for count in point.counts])
    bounds = ",".join([number(legal.number(bound)) for bound in point.bounds])
    parts = [
        f'{{{_times(point)},"count":"{legal.unsigned(point.count)}","sum":{number(legal.number(point.sum))}',
        f'"bucketCounts":[{counts}],"explicitBounds":[{bounds}]',
    ]
    if point.exemplars:
        parts.append(f'"exemplars":[{",".join(map(_exemplar, point.exemplars))}]')
    if point.count:
        parts.append(f'"min":{number(legal.number(point.min))},"max":{number(legal.number(point.max))}')
    return ",".join(parts) + "}"


def _exemplar(exemplar: Exemplar) -> str:
    return (
        f'{{"timeUnixNano":"{legal.unsigned(exemplar.time_ns)}","asDouble":{number(legal.number(exemplar.value))},'
        f'"spanId":"{legal.identifier(exemplar.span_id, 8).hex()}",'
        f'"traceId":"{legal.identifier(exemplar.trace_id, 16).hex()}"}}'
    )
