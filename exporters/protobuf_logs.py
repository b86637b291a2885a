"""Log records and events to OTLP protobuf."""

from __future__ import annotations

from aiobs.telemetry import LogRow

from . import legal
from .protobuf import any_value, attributes, delimited, fixed64, string, varint

_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


def severity_text(number: int) -> str:
    """The short name OpenTelemetry gives a severity number (1 to 24), "" for others."""
    if not 1 <= number <= 24:
        return ""
    level, step = divmod(number - 1, 4)
    return _LEVELS[level] + (str(step + 1) if step else "")


def log_record(row: LogRow) -> bytes:
    """The content of a ``LogRecord``."""
    return b"".join(
        (
            fixed64(1, row.time_ns),
            fixed64(11, row.time_ns),
            b"\x10" + varint(row.severity),
            string(3, severity_text(row.severity)),
            b"" if row.body is None else delimited(5, any_value(row.body)),
            attributes(6, row.attributes),
            delimited(9, legal.identifier(row.trace_id, 16)) if row.trace_id else b"",
            delimited(10, legal.identifier(row.span_id, 8)) if row.span_id else b"",
            string(12, row.event_name),
        )
    )
