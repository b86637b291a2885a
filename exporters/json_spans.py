"""Spans to OTLP JSON, through a template generated once for each shape (see ``protobuf_spans``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiobs.telemetry import Extra, Row, Shape

from . import legal
from .columns import TYPES, Columns
from .json_values import any_value, attributes, key_value, quoted

Encoder = Callable[[Row], str]

_SURPRISES = (TypeError, ValueError, OverflowError, AttributeError)


def encoder(shape: Shape) -> Encoder:
    """How to encode rows of `shape`: the long way at first sight, then by code made for it and kept on it.

    Making the code costs as much as some hundred spans, too much for a shape that is seen once.
    """
    made: Encoder | None = shape.encoders.get("json")
    if made is None:
        if "json" not in shape.encoders:
            shape.encoders["json"] = None
            return long_way
        made = shape.encoders["json"] = _generate(shape)
    return made


def _generate(shape: Shape) -> Encoder:
    if len(set(shape.keys)) < len(shape.keys):
        return long_way
    types = shape.types.ljust(len(shape.keys), "j")
    names = [f"v{index}" for index in range(len(shape.keys))]
    scope: dict[str, Any] = {
        "SURPRISES": _SURPRISES,
        "KEYS": frozenset(shape.keys),
        "NAME": f',"name":{quoted(shape.name)},"kind":{int(shape.kind)},"startTimeUnixNano":"',
        "real": float.__repr__,
        "extra": _extra,
        "slow": long_way,
    }
    values, checks = [], []
    for index, (key, letter) in enumerate(zip(shape.keys, types, strict=True)):
        make = f"make{index}"
        if letter == "d":
            scope[f"K{index}"] = key_value(key, 0.0)[:-5]
            # A float whose difference with itself is not zero is one that JSON lacks.
            checks.append(f"v{index} - v{index}")
            values.append(f"{{K{index}}}{{real(v{index})}}" + "}}}}")
        elif letter in TYPES:
            scope[f"seen{index}"], scope[make] = _columns.get(key, letter)
            values.append(f"{{seen{index}(v{index}) or {make}(v{index})}}")
        else:
            scope[make] = _attribute(key)
            values.append(f"{{{make}(v{index})}}")
    unpacked = f"({', '.join(names)},)" if names else "_"
    attributes_text = f',"attributes":[{",".join(values)}]' if values else ""
    odd = f" or {' + '.join(checks)} != 0" if checks else ""
    source = f"""
def encode(row):
    try:
        _, trace, span, parent, start, end, {unpacked}, more = row
        if len(trace) != 16 or (start | end) >> 64{odd}:
            return slow(row)
        up = f',"parentSpanId":"{{parent.hex()}}"' if parent else ""
        if more is None:
            tail = ""
        elif more.attributes:
            return slow(row)
        else:
            tail = extra(more)
        return (
            f'{{{{"traceId":"{{trace.hex()}}","spanId":"{{span.hex()}}"{{up}}{{NAME}}{{start}}'
            f'","endTimeUnixNano":"{{end}}"{attributes_text}{{tail}}}}}}'
        )
    except SURPRISES:
        return slow(row)
"""
    exec(compile(source, "<json encoder of one span shape>", "exec"), scope)  # noqa: S102 - all of it is ours
    made: Encoder = scope["encode"]
    return made


def _attribute(key: str) -> Callable[[Any], str]:
    """What encodes a value of attribute `key`."""
    head = f'{{"key":{quoted(key)},"value":'

    def encode(value: Any) -> str:
        return f"{head}{any_value(value)}}}"

    return encode


_columns = Columns(_attribute)


def _extra(extra: Extra) -> str:
    """What few spans have, beginning with a comma."""
    parts = []
    if extra.trace_state:
        parts.append(f',"traceState":{quoted(extra.trace_state)}')
    if extra.events:
        events = ",".join(
            [
                f'{{"timeUnixNano":"{legal.unsigned(event.time_ns)}","name":{quoted(event.name)},'
                f'"attributes":{attributes(event.attributes)}}}'
                for event in extra.events
            ]
        )
        parts.append(f',"events":[{events}]')
    if extra.links:
        links = ",".join(
            [
                f'{{"traceId":"{legal.identifier(link.trace_id, 16).hex()}",'
                f'"spanId":"{legal.identifier(link.span_id, 8).hex()}","attributes":{attributes(link.attributes)}}}'
                for link in extra.links
            ]
        )
        parts.append(f',"links":[{links}]')
    if extra.message:
        parts.append(f',"status":{{"message":{quoted(extra.message)},"code":{int(extra.status)}}}')
    elif extra.status:
        parts.append(f',"status":{{"code":{int(extra.status)}}}')
    if extra.flags:
        parts.append(f',"flags":{int(extra.flags) & 0xFFFFFFFF}')
    return "".join(parts)


def long_way(row: Row) -> str:
    """Encode any row, field by field."""
    shape, trace, span, parent, start, end, values, extra = row
    merged = legal.merged(shape.keys, values, extra.attributes if extra else {})
    up = f',"parentSpanId":"{legal.identifier(parent, 8).hex()}"' if parent else ""
    return (
        f'{{"traceId":"{legal.identifier(trace, 16).hex()}","spanId":"{legal.identifier(span, 8).hex()}"{up}'
        f',"name":{quoted(shape.name)},"kind":{int(shape.kind)}'
        f',"startTimeUnixNano":"{legal.unsigned(start)}","endTimeUnixNano":"{legal.unsigned(end)}"'
        f',"attributes":{attributes(merged)}{_extra(extra) if extra else ""}}}'
    )
