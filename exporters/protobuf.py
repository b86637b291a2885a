"""The protobuf wire format: as much of it as OTLP needs, without the protobuf library.

Writers return bytes; ``fields`` reads. Names say the OTLP message where there is one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import legal

pack_double = struct.Struct("<d").pack
pack_fixed64 = struct.Struct("<Q").pack
pack_fixed32 = struct.Struct("<I").pack


def varint(number: int) -> bytes:
    """A base-128 integer; a negative one as its 64-bit two's complement."""
    if 0 <= number < 128:
        return bytes((number,))
    number &= legal.UINT64_MAX
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """What precedes field `number`: wire type 0 varint, 1 fixed64, 2 length-delimited, 5 fixed32."""
    return varint(number << 3 | wire_type)


def delimited(number: int, content: bytes) -> bytes:
    """A bytes, string or message field."""
    return tag(number, 2) + varint(len(content)) + content


def string(number: int, value: object) -> bytes:
    """A string field, left out where empty."""
    content = legal.text(value).encode()
    return delimited(number, content) if content else b""


def fixed64(number: int, value: object) -> bytes:
    """A fixed64 field (a time or a count)."""
    return tag(number, 1) + pack_fixed64(legal.unsigned(value))


def double(number: int, value: float) -> bytes:
    """A double field."""
    return tag(number, 1) + pack_double(value)


def any_value(value: Any, depth: int = 0) -> bytes:
    """The content of an ``AnyValue``; None is the empty one, a number beyond 64 bits its decimal text."""
    if isinstance(value, str):
        return delimited(1, legal.text(value).encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if legal.INT64_MIN <= value <= legal.INT64_MAX:
            return b"\x18" + varint(value)
        return delimited(1, legal.integer_text(value).encode())
    if isinstance(value, float):
        return b"\x21" + pack_double(value)
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return delimited(7, bytes(value))
    if depth >= legal.MAX_DEPTH:
        return delimited(1, "…".encode())
    if isinstance(value, Mapping):
        return delimited(6, attributes(1, value, depth + 1))
    if isinstance(value, Sequence):
        return delimited(5, b"".join([delimited(1, any_value(item, depth + 1)) for item in value]))
    return delimited(1, legal.key(value).encode())


def key_value(number: int, name: object, value: Any, depth: int = 0) -> bytes:
    """A ``KeyValue`` as field `number`."""
    return delimited(number, string(1, legal.key(name)) + delimited(2, any_value(value, depth)))


def attributes(number: int, values: Mapping[Any, Any], depth: int = 0) -> bytes:
    """All of a map as repeated ``KeyValue`` fields."""
    return b"".join([key_value(number, name, value, depth) for name, value in values.items()])


def fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Read a message: field numbers with an int (varint, fixed) or bytes (length-delimited).

    Raises:
        ValueError: it is not a protobuf message.
    """
    position = 0
    while position < len(content):
        head, position = _read_varint(content, position)
        wire_type = head & 7
        if wire_type == 0:
            value, position = _read_varint(content, position)
            yield head >> 3, value
            continue
        if wire_type == 2:
            size, position = _read_varint(content, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        chunk = content[position : position + size]
        if len(chunk) < size or head >> 3 == 0:
            raise ValueError(f"not a protobuf message at byte {position}")
        position += size
        yield head >> 3, chunk if wire_type == 2 else int.from_bytes(chunk, "little")


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    result = 0
    for index, byte in enumerate(content[position : position + 10]):
        result |= (byte & 127) << 7 * index
        if byte < 128:
            return result, position + index + 1
    raise ValueError(f"unfinished number at byte {position}")
