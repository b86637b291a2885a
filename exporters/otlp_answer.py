"""What a receiver says: partial success, refusals and how long to wait."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from aiobs.ports import Receipt

from .protobuf import fields

MESSAGE_CHARACTERS = 300
RETRY_AFTER_MAX_S = 3600.0


def receipt(content: bytes, *, json_body: bool) -> Receipt:
    """What an answer of success means. One that cannot be read still is a success."""
    try:
        rejected, message = _json_partial(content) if json_body else _protobuf_partial(content)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return Receipt(0, f"the answer cannot be read: {shown(content)}")
    return Receipt(max(rejected, 0), shown(message.encode("utf-8", "replace")))


def _protobuf_partial(content: bytes) -> tuple[int, str]:
    rejected, message = 0, ""
    for number, partial in fields(content):
        if number == 1 and isinstance(partial, bytes):
            for inner, value in fields(partial):
                if inner == 1 and isinstance(value, int):
                    rejected = value - (1 << 64) if value >> 63 else value
                elif inner == 2 and isinstance(value, bytes):
                    message = value.decode("utf-8", "replace")
    return rejected, message


def _json_partial(content: bytes) -> tuple[int, str]:
    partial: dict[str, Any] = (json.loads(content) if content.strip() else {}).get("partialSuccess") or {}
    rejected = sum(
        [int(partial.get(key) or 0) for key in ("rejectedSpans", "rejectedDataPoints", "rejectedLogRecords")]
    )
    return rejected, str(partial.get("errorMessage") or "")


def refusal(content: bytes, content_type: str) -> str:
    """The receiver's reason: the message of a ``google.rpc.Status``, else the text itself."""
    try:
        if "json" in content_type:
            return shown(str(json.loads(content)["message"]).encode())
        if "protobuf" in content_type:
            return shown(b"".join([v for number, v in fields(content) if number == 2 and isinstance(v, bytes)]))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return shown(content)


def shown(content: bytes) -> str:
    """Foreign text, safe for a log: bounded, on one line, without control characters."""
    text = " ".join(content[: MESSAGE_CHARACTERS * 4].decode("utf-8", "replace").split())
    text = "".join([character if character.isprintable() else "?" for character in text])
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a ``Retry-After`` header, which holds seconds or a date; None where it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - (now or datetime.now(timezone.utc))).total_seconds()
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)


def retry_info(details: bytes) -> float | None:
    """Seconds from the ``RetryInfo`` among the details of a gRPC status, None where there is none."""
    try:
        for number, detail in fields(details):
            if number != 3 or not isinstance(detail, bytes):
                continue
            packed = dict(fields(detail))
            if bytes(packed.get(1, b"")).endswith(b"google.rpc.RetryInfo"):
                delay = dict(fields(bytes(packed.get(2, b"")))).get(1, b"")
                parts = dict(fields(bytes(delay)))
                seconds, nanos = parts.get(1, 0), parts.get(2, 0)
                if isinstance(seconds, int) and isinstance(nanos, int):
                    return min(seconds + nanos / 1e9, RETRY_AFTER_MAX_S)
    except (ValueError, TypeError):
        return None
    return None
