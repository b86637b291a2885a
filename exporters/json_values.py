"""OTLP's JSON mapping of values: what protobuf's differs in is written here once.

Ids are hexadecimal, 64-bit integers are decimal strings, bytes are base64, floats that JSON lacks are the
strings "NaN", "Infinity" and "-Infinity". Everything returns JSON text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring as _quote
from typing import Any

from . import legal


def quoted(value: object) -> str:
    """A JSON string."""
    return _quote(legal.text(value))


def number(value: float) -> str:
    """A JSON number, or the name of one that JSON lacks."""
    value = float(value)
    if value - value == 0:
        return repr(value)
    return '"NaN"' if value != value else '"Infinity"' if value > 0 else '"-Infinity"'


def any_value(value: Any, depth: int = 0) -> str:
    """An ``AnyValue``; None is the empty one, an integer beyond 64 bits its decimal text."""
    if isinstance(value, str):
        return f'{{"stringValue":{quoted(value)}}}'
    if isinstance(value, bool):
        return '{"boolValue":true}' if value else '{"boolValue":false}'
    if isinstance(value, int):
        if legal.INT64_MIN <= value <= legal.INT64_MAX:
            return f'{{"intValue":"{int(value)}"}}'
        return f'{{"stringValue":"{legal.integer_text(value)}"}}'
    if isinstance(value, float):
        return f'{{"doubleValue":{number(value)}}}'
    if value is None:
        return "{}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f'{{"bytesValue":"{b64encode(value).decode()}"}}'
    if depth >= legal.MAX_DEPTH:
        return '{"stringValue":"…"}'
    if isinstance(value, Mapping):
        return f'{{"kvlistValue":{{"values":{attributes(value, depth + 1)}}}}}'
    if isinstance(value, Sequence):
        items = ",".join([any_value(item, depth + 1) for item in value])
        return f'{{"arrayValue":{{"values":[{items}]}}}}'
    return f'{{"stringValue":{quoted(legal.key(value))}}}'


def key_value(name: object, value: Any, depth: int = 0) -> str:
    """A ``KeyValue``."""
    return f'{{"key":{quoted(legal.key(name))},"value":{any_value(value, depth)}}}'


def attributes(values: Mapping[Any, Any], depth: int = 0) -> str:
    """All of a map as a list of ``KeyValue``."""
    return f"[{','.join([key_value(name, value, depth) for name, value in values.items()])}]"
