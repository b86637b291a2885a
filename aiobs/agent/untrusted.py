"""JSON out of a file that anybody may have damaged: bounded, and safe to encode afterwards."""

from __future__ import annotations

import json
from typing import Any

from aiobs.telemetry import Value

MAX_DEPTH = 12
"""Lists and objects may be nested so deep; encoders recurse over them."""

_decode = json.JSONDecoder().raw_decode


class DamagedError(ValueError):
    """A part of a flight record that cannot be what it says; stays inside this package."""


def parse_object(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object at the beginning of `raw`, and what follows it.

    Raises:
        DamagedError: there is none.
    """
    try:
        text = raw.decode("utf-8")
        found, end = _decode(text)
        if not isinstance(found, dict):
            raise DamagedError("not a JSON object")
        rest = text[end:].encode("utf-8") if end < len(text) else b""
        return clean_attributes(found), rest
    except (ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def parse_value(raw: bytes) -> Value:
    """The JSON value that `raw` is.

    Raises:
        DamagedError: it is not JSON.
    """
    try:
        return clean(json.loads(raw.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def clean(value: Any, depth: int = MAX_DEPTH) -> Value:
    """`value` with strings that UTF-8 can carry and nesting cut at `depth`."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if depth <= 0:
        return None
    if isinstance(value, list):
        return [clean(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return clean_attributes(value, depth - 1)
    return None


def clean_attributes(attributes: Any, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """An attribute mapping; empty where `attributes` is not one."""
    if not isinstance(attributes, dict):
        return {}
    return {_text(str(key)): clean(value, depth) for key, value in attributes.items()}


def _text(value: str) -> str:
    # JSON may spell half a surrogate pair (\ud800); no encoder could write it out again.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
