"""Spans to OTLP protobuf, through code generated once for each shape.

All that spans of one shape share is encoded when the shape is first seen. For a span there remain one
``struct.pack`` for ids, times and floats, and one dictionary look-up for each other attribute, because most
values (a step number, a phase, a path) come again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from aiobs.telemetry import Extra, Row, Shape

from . import legal
from .columns import TYPES, Columns
from .protobuf import any_value, attributes, delimited, fixed64, key_value, pack_fixed32, string, tag, varint

Add = Callable[[Iterable[bytes]], None]
Encoder = Callable[[Row, Add], int]
"""Adds a span, as field 2 of ``ScopeSpans``, in pieces; returns their length in bytes."""

_SPAN_FIELD = 2
_ATTRIBUTE_FIELD = 9
# Tag and length of a span, by its length.
_SMALL = [varint(number) for number in range(1 << 14)]
_LENGTHS = [tag(_SPAN_FIELD, 2) + length for length in _SMALL]

_SURPRISES = (TypeError, ValueError, OverflowError, IndexError, AttributeError, struct.error)
"""What the generated code raises for a row that is not as its shape says; it is then encoded the long way."""


def encoder(shape: Shape) -> Encoder:
    """How to encode rows of `shape`: the long way at first sight, then by code made for it and kept on it.

    Making the code costs as much as some hundred spans, too much for a shape that is seen once.
    """
    made: Encoder | None = shape.encoders.get("otlp")
    if made is None:
        if "otlp" not in shape.encoders:
            shape.encoders["otlp"] = None
            return long_way
        made = shape.encoders["otlp"] = _generate(shape)
    return made


def _generate(shape: Shape) -> Encoder:
    types = shape.types.ljust(len(shape.keys), "j")
    names = [f"v{index}" for index in range(len(shape.keys))]
    scope: dict[str, Any] = {
        "LENGTHS": _LENGTHS,
        "SURPRISES": _SURPRISES,
        "KEYS": frozenset(shape.keys),
        "extra": _extra,
        "slow": long_way,
    }
    # One pack for everything of fixed size. A wrong-sized id is cut or padded by it: still a legal message.
    constant = string(5, shape.name) + b"\x30" + varint(shape.kind) + tag(7, 1)
    layout, arguments = f"{len(constant)}sQ1sQ", ["CONSTANT", "start", "END", "end"]
    scope.update(CONSTANT=constant, END=tag(8, 1), TRACE=b"\x0a\x10", SPAN=b"\x12\x08", PARENT=b"\x22\x08")
    look_ups, pieces = [], []
    for index, (key, letter) in enumerate(zip(shape.keys, types, strict=True)):
        if letter == "d":
            scope[f"K{index}"] = _double_prefix(key)
            layout += f"{len(scope[f'K{index}'])}sd"
            arguments += [f"K{index}", f"v{index}"]
        elif letter not in TYPES:
            scope[f"make{index}"] = _attribute(key)
            look_ups.append(f"k{index} = make{index}(v{index})")
            pieces.append(f"k{index}")
        else:
            scope[f"seen{index}"], scope[f"make{index}"] = _columns.get(key, letter)
            look_ups.append(f"k{index} = seen{index}(v{index}) or make{index}(v{index})")
            pieces.append(f"k{index}")
    for name, ids in (("CHILD", "2s16s2s8s2s8s"), ("ROOT", "2s16s2s8s")):
        packer = struct.Struct("<" + ids + layout)
        scope[f"pack_{name.lower()}"] = packer.pack
        scope[f"SIZE_{name}"] = packer.size
    values = f"({', '.join(names)},)" if names else "_"
    total = "".join(f" + len({piece})" for piece in pieces)
    listed = "".join(f", {piece}" for piece in pieces)
    packed = ", ".join(arguments)
    source = f"""
def encode(row, add):
    try:
        _, trace, span, parent, start, end, {values}, more = row
        {"; ".join(look_ups) or "pass"}
        if parent:
            size = SIZE_CHILD{total}
            head = pack_child(TRACE, trace, SPAN, span, PARENT, parent, {packed})
        else:
            size = SIZE_ROOT{total}
            head = pack_root(TRACE, trace, SPAN, span, {packed})
        if more is None:
            add((LENGTHS[size], head{listed}))
        elif KEYS.isdisjoint(more.attributes):
            tail = extra(more)
            size += len(tail)
            add((LENGTHS[size], head{listed}, tail))
        else:
            return slow(row, add)
        return size + 2 if size < 128 else size + 3
    except SURPRISES:
        return slow(row, add)
"""
    if len(scope["KEYS"]) < len(shape.keys):
        return long_way
    exec(compile(source, "<otlp encoder of one span shape>", "exec"), scope)  # noqa: S102 - all of it is ours
    made: Encoder = scope["encode"]
    return made


def _double_prefix(key: str) -> bytes:
    """All of a float attribute but its eight last bytes."""
    return key_value(_ATTRIBUTE_FIELD, key, 0.0)[:-8]


def _attribute(key: str) -> Callable[[Any], bytes]:
    """What encodes a value of attribute `key`."""
    name = string(1, key)
    # An integer takes 1 to 10 bytes: what precedes it, by that number.
    heads = [
        tag(_ATTRIBUTE_FIELD, 2) + varint(len(name) + size + 3) + name + bytes((0x12, size + 1, 0x18))
        for size in range(11)
    ]

    def encode(value: Any) -> bytes:
        if type(value) is int and 0 <= value < 1 << 63:
            digits = _SMALL[value] if value < 1 << 14 else varint(value)
            return heads[len(digits)] + digits
        return delimited(_ATTRIBUTE_FIELD, name + delimited(2, any_value(value)))

    return encode


_columns = Columns(_attribute)


def _extra(extra: Extra) -> bytes:
    """What few spans have, as fields of ``Span``."""
    parts = [attributes(_ATTRIBUTE_FIELD, extra.attributes), string(3, extra.trace_state)]
    for event in extra.events:
        content = fixed64(1, event.time_ns) + string(2, event.name) + attributes(3, event.attributes)
        parts.append(delimited(11, content))
    for link in extra.links:
        ids = delimited(1, legal.identifier(link.trace_id, 16)) + delimited(2, legal.identifier(link.span_id, 8))
        parts.append(delimited(13, ids + attributes(4, link.attributes)))
    if extra.status or extra.message:
        parts.append(delimited(15, string(2, extra.message) + b"\x18" + varint(extra.status)))
    if extra.flags:
        parts.append(tag(16, 5) + pack_fixed32(extra.flags & 0xFFFFFFFF))
    return b"".join(parts)


def long_way(row: Row, add: Add) -> int:
    """Encode any row, field by field."""
    shape, trace, span, parent, start, end, values, extra = row
    parts = [
        delimited(1, legal.identifier(trace, 16)),
        delimited(2, legal.identifier(span, 8)),
        delimited(4, legal.identifier(parent, 8)) if parent else b"",
        string(5, shape.name),
        b"\x30" + varint(shape.kind),
        fixed64(7, start),
        fixed64(8, end),
    ]
    if extra is None:
        parts.append(attributes(_ATTRIBUTE_FIELD, legal.merged(shape.keys, values, {})))
    else:
        parts.append(attributes(_ATTRIBUTE_FIELD, legal.merged(shape.keys, values, extra.attributes)))
        rest = Extra(extra.status, extra.message, {}, extra.events, extra.links, extra.trace_state, extra.flags)
        parts.append(_extra(rest))
    content = delimited(_SPAN_FIELD, b"".join(parts))
    add((content,))
    return len(content)
