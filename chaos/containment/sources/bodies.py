"""What an OTLP request carries: protobuf or JSON, as the JSON that a run folder holds."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from aiobs.errors import NotEnabledError

SIGNALS = {"traces": ("resourceSpans", "scopeSpans", "spans"), "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
           "logs": ("resourceLogs", "scopeLogs", "logRecords")}  # fmt: skip
"""Signal to the names of its three levels."""
REJECTED = {"traces": "rejectedSpans", "metrics": "rejectedDataPoints", "logs": "rejectedLogRecords"}

_IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


class BodyError(ValueError):
    """A body that is no OTLP request; its text says why."""


@dataclass(frozen=True)
class Body:
    """A request as it is kept.

    Attributes:
        content: OTLP JSON, without what was rejected.
        rejected: how many spans were left out, and `why` the first of them.
    """

    content: dict[str, Any]
    rejected: int = 0
    why: str = ""

    @property
    def line(self) -> bytes:
        """A line of a run folder, with its end."""
        return json.dumps(self.content, separators=(",", ":")).encode() + b"\n"


def require_protobuf() -> None:
    """Raise NotEnabledError where OTLP's messages are not installed."""
    try:
        import_module("opentelemetry.proto.trace.v1.trace_pb2")
    except ImportError:
        raise NotEnabledError("the OTLP receiver", "containment") from None


def from_protobuf(signal: str, message: bytes) -> Body:
    """The request in `message`. Raises BodyError."""
    from google.protobuf.message import DecodeError

    request = _request(signal)
    try:
        request.ParseFromString(message)
    except DecodeError as error:
        raise BodyError(f"it is no {signal} request in protobuf: {error}") from error
    return from_message(signal, request)


def from_message(signal: str, request: Any) -> Body:
    """The request in a protobuf object."""
    from google.protobuf.json_format import MessageToDict

    content = MessageToDict(request, use_integers_for_enums=True)
    for item in _items(signal, content):
        _hex(item)
    return kept(signal, content)


def from_json(signal: str, text: bytes) -> Body:
    """The request in `text`. Raises BodyError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BodyError("it is no JSON object")
    return kept(signal, content)


def kept(signal: str, content: dict[str, Any]) -> Body:
    """The request without spans that cannot be told apart or placed in time. Raises BodyError."""
    groups, scopes, items = SIGNALS[signal]
    rejected, why = 0, ""
    try:
        for group in content.get(groups) or ():
            for pair in (group.get("resource") or {}).get("attributes") or ():
                _pair(pair)
            for scope in group.get(scopes) or ():
                all_items = scope.get(items) or []
                wrong = [_wrong(item) if signal == "traces" else "" for item in all_items]
                if any(wrong):
                    rejected += sum(map(bool, wrong))
                    why = why or next(filter(None, wrong))
                    scope[items] = [item for item, no in zip(all_items, wrong, strict=True) if not no]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BodyError(f"its {signal} do not have the shape of OTLP JSON ({type(error).__name__}: {error})") from error
    return Body({groups: content.get(groups) or []}, rejected, why)


def _wrong(span: Any) -> str:
    for pair in span.get("attributes") or ():
        _pair(pair)
    for name, size in (("traceId", 32), ("spanId", 16)):
        text = str(span.get(name, "")).lower()
        if len(text) != size or set(text) <= {"0"} or not set(text) <= set("0123456789abcdef"):
            return f"{name}={text!r}: {size} hexadecimal digits are needed, not all 0"
    for name in ("startTimeUnixNano", "endTimeUnixNano"):
        moment = span.get(name, 0)
        if isinstance(moment, float) or not 0 < int(moment) < 2**63:
            return f"{name}={moment!r}: Unix nanoseconds are needed"
    return ""


def _pair(pair: Any) -> None:
    if not isinstance(pair["key"], str) or not isinstance(pair.get("value") or {}, dict):
        raise BodyError("attributes are pairs of key and value")


def _items(signal: str, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    groups, scopes, items = SIGNALS[signal]
    for group in content.get(groups, ()):
        for scope in group.get(scopes, ()):
            yield from scope.get(items, ())


def _hex(item: Any) -> None:
    """Protobuf's JSON writes ids as base64, OTLP's as hexadecimal digits: wherever they stand."""
    if isinstance(item, list):
        for each in item:
            _hex(each)
    elif isinstance(item, dict):
        for name, value in item.items():
            if name in _IDS and isinstance(value, str):
                item[name] = b64decode(value).hex()
            elif name != "attributes":
                _hex(value)


def _request(signal: str) -> Any:
    if signal == "traces":
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return ExportTraceServiceRequest()
    if signal == "metrics":
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        return ExportMetricsServiceRequest()
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    return ExportLogsServiceRequest()
