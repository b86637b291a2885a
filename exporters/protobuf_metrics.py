"""Metrics to OTLP protobuf, always cumulative."""

from __future__ import annotations

import struct

from aiobs.telemetry import Exemplar, HistogramPoint, Metric, Point

from . import legal
from .protobuf import attributes, delimited, double, fixed64, string

_CUMULATIVE = b"\x10\x02"
_MONOTONIC = b"\x18\x01"


def metric(one: Metric) -> bytes:
    """The content of a ``Metric``."""
    head = string(1, one.name) + string(2, one.description) + string(3, one.unit)
    points = b"".join(
        [
            delimited(1, _histogram_point(point) if isinstance(point, HistogramPoint) else _number_point(point))
            for point in one.points
        ]
    )
    if one.kind == "histogram":
        return head + delimited(9, points + _CUMULATIVE)
    if one.kind == "gauge":
        return head + delimited(5, points)
    return head + delimited(7, points + _CUMULATIVE + (_MONOTONIC if one.kind == "sum" else b""))


def _number_point(point: Point) -> bytes:
    value = point.value
    if isinstance(value, int) and legal.INT64_MIN <= value <= legal.INT64_MAX:
        number = b"\x31" + struct.pack("<q", value)
    else:
        number = double(4, legal.number(value))
    return fixed64(2, point.start_ns) + fixed64(3, point.time_ns) + number + attributes(7, point.attributes)


def _histogram_point(point: HistogramPoint) -> bytes:
    parts = [
        fixed64(2, point.start_ns),
        fixed64(3, point.time_ns),
        fixed64(4, point.count),
        double(5, legal.number(point.sum)),
        delimited(6, struct.pack(f"<{len(point.counts)}Q", *map(legal.unsigned, point.counts))),
        delimited(7, struct.pack(f"<{len(point.bounds)}d", *map(legal.number, point.bounds))),
        attributes(9, point.attributes),
    ]
    parts += [delimited(8, _exemplar(exemplar)) for exemplar in point.exemplars]
    if point.count:
        parts += (double(11, legal.number(point.min)), double(12, legal.number(point.max)))
    return b"".join(parts)


def _exemplar(exemplar: Exemplar) -> bytes:
    return b"".join(
        (
            fixed64(2, exemplar.time_ns),
            double(3, legal.number(exemplar.value)),
            delimited(4, legal.identifier(exemplar.span_id, 8)),
            delimited(5, legal.identifier(exemplar.trace_id, 16)),
        )
    )
