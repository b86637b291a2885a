"""What OTLP can hold, and what becomes of a value that it cannot.

Telemetry must not fail because of an odd attribute: every function here returns something legal for any input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

MAX_DEPTH = 16
"""Deeper nesting (or a list that contains itself) is cut off with "…"."""

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
UINT64_MAX = (1 << 64) - 1


def text(value: object) -> str:
    """`value` as text that UTF-8 can carry: a surrogate pair is joined, a lone surrogate becomes U+FFFD."""
    string = str.__str__(value) if isinstance(value, str) else key(value)
    try:
        string.encode()
    except UnicodeEncodeError:
        return string.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return string


def key(value: object) -> str:
    """The name of an attribute or map entry, whatever was used as one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        return integer_text(value) if isinstance(value, int) else repr(float(value))
    return f"<{type(value).__name__}>"


def one_text(value: object) -> str:
    """Any attribute value as one text: strings as they are, bytes in hexadecimal, all else as JSON."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    try:
        return text(json.dumps(value, ensure_ascii=False, default=key))
    except (ValueError, TypeError, RecursionError):
        return integer_text(value) if isinstance(value, int) else key(value)


def integer_text(value: int) -> str:
    """A whole number in decimal, or in hexadecimal where Python refuses (over 4,300 digits)."""
    try:
        return str(int(value))
    except ValueError:
        return hex(value)


def unsigned(value: object) -> int:
    """A count or time as an unsigned 64-bit integer: out of range is clamped, nonsense is 0."""
    if isinstance(value, float):
        value = int(value) if value - value == 0 else 0
    if not isinstance(value, int):
        return 0
    return min(max(int(value), 0), UINT64_MAX)


def number(value: object) -> float:
    """A measured value as a float; an int too large for one is infinite, nonsense is not a number."""
    if not isinstance(value, (int, float)):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def identifier(value: object, size: int) -> bytes:
    """A trace (16) or span id (8) of exactly `size` bytes, or b"" where there is none."""
    if not isinstance(value, (bytes, bytearray)) or not value:
        return b""
    return bytes(value[:size]).ljust(size, b"\0")


def merged(keys: tuple[str, ...], values: tuple[object, ...], more: Mapping[str, object]) -> dict[str, object]:
    """A span's attributes as one map without doubled keys; `more` wins."""
    attributes: dict[str, object] = dict(zip(keys, values))  # noqa: B905 - a short row keeps what it has
    attributes.update(more)
    return attributes
