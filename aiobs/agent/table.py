"""The table of a flight record, parsed as far as it has been written: shapes, phases, resource, route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from struct import Struct, calcsize
from typing import Any

from aiobs.agent.untrusted import DamagedError, parse_object
from aiobs.recorder import layout
from aiobs.telemetry import Resource, Route, Shape

MAX_ID = 1 << 20
"""Ids beyond this cannot come from a table of a megabyte."""


class Schema:
    """The shape of a record and how its payload is laid out.

    Attributes:
        shape: what exporters see.
        threaded: the same with ``thread.id`` behind the keys.
        codes: struct codes of the values, without a byte order.
        size: bytes of that struct.
        texts: (position, is JSON) of the values whose bytes follow the struct, in order.
    """

    __slots__ = ("codes", "shape", "size", "texts", "threaded", "unpack")

    def __init__(self, shape: Shape, thread_key: str) -> None:
        self.shape = shape
        self.threaded = Shape(
            shape.name, shape.kind, shape.scope, shape.version, (*shape.keys, thread_key), shape.types + "q"
        )
        self.codes = "".join(layout.VALUE_CODES[letter] for letter in shape.types)
        self.size = calcsize("<" + self.codes)
        self.unpack = Struct("<" + self.codes).unpack_from
        self.texts = tuple((i, letter == "j") for i, letter in enumerate(shape.types) if letter in "sj")


class Table:
    """What the table says so far; :meth:`refresh` reads on.

    Attributes:
        schemas, phases: by id.
        resource: the newest; another object whenever it changed.
        route: the newest, None where none was written.
        damaged: entries that made no sense.
    """

    def __init__(self, read: Callable[[int, int], bytes], offset: int, size: int, thread_key: str) -> None:
        self._read = read
        self._offset = offset
        self._size = size
        self._thread_key = thread_key
        self._parsed = 0
        self._broken = False
        self.schemas: dict[int, Schema] = {}
        self.phases: dict[int, str] = {}
        self.resource = Resource({})
        self.route: Route | None = None
        self.damaged = 0

    def refresh(self, used: int) -> bool:
        """Parse entries up to byte `used` of the table; says whether there were any."""
        used = min(used, self._size)
        if self._broken or used <= self._parsed:
            return False
        raw = self._read(self._offset + self._parsed, used - self._parsed)
        at = 0
        head = layout.TABLE_ENTRY
        while at + head.size <= len(raw):
            length, kind = head.unpack_from(raw, at)
            if at + head.size + length > len(raw):
                self.damaged += 1
                self._broken = True  # where the next entry begins is unknown from here on
                break
            try:
                self._take(kind, raw[at + head.size : at + head.size + length])
            except DamagedError:
                self.damaged += 1
            at += -(-(head.size + length) // 8) * 8
        self._parsed += at
        return True

    def _take(self, kind: int, raw: bytes) -> None:
        found, _ = parse_object(raw)
        if kind == layout.ENTRY_SCHEMA:
            self.schemas.setdefault(_id(found), Schema(_shape(found), self._thread_key))
        elif kind == layout.ENTRY_PHASE:
            self.phases.setdefault(_id(found), _text(found, "name"))
        elif kind == layout.ENTRY_RESOURCE:
            attributes = found.get("attributes")
            if not isinstance(attributes, dict):
                raise DamagedError("a resource without attributes")
            self.resource = Resource(attributes)
        elif kind == layout.ENTRY_ROUTE:
            self.route = _route(found)
        else:
            raise DamagedError(f"entry kind {kind}")


def _id(found: dict[str, Any]) -> int:
    number = found.get("id")
    if not isinstance(number, int) or not 0 < number < MAX_ID:
        raise DamagedError(f"id {number!r}")
    return number


def _text(found: dict[str, Any], key: str, default: str | None = None) -> str:
    text = found.get(key, default)
    if not isinstance(text, str):
        raise DamagedError(f"{key} {text!r}")
    return text


def _shape(found: dict[str, Any]) -> Shape:
    keys = found.get("keys", [])
    types = _text(found, "types", "")
    kind = found.get("kind", 1)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) != len(types):
        raise DamagedError("keys and types do not match")
    if not set(types) <= set(layout.VALUE_CODES) or kind not in (1, 2, 3, 4, 5):
        raise DamagedError(f"types {types!r}, kind {kind!r}")
    if calcsize("<" + "".join(layout.VALUE_CODES[letter] for letter in types)) > layout.PAYLOAD_LIMIT:
        raise DamagedError("more values than a payload can hold")
    return Shape(
        _text(found, "name"), kind, _text(found, "scope", "aiobs"), _text(found, "version", ""), tuple(keys), types
    )


_ROUTE_DEFAULTS = {field.name: field for field in fields(Route)}


def _route(found: dict[str, Any]) -> Route:
    run_id = _text(found, "run_id")
    chosen: dict[str, Any] = {}
    for name, value in found.items():
        if name not in _ROUTE_DEFAULTS or name == "run_id":
            continue
        kind = str(_ROUTE_DEFAULTS[name].type)
        if kind.startswith("tuple"):
            good = isinstance(value, list) and all(isinstance(item, str) for item in value)
            value = tuple(value) if good else value
        elif kind.startswith("Mapping"):
            good = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        elif kind == "float":
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
        elif kind == "int":
            good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
        else:
            good = isinstance(value, str)
        if not good:
            raise DamagedError(f"route: {name} {value!r}")
        chosen[name] = value
    route = Route(run_id, **chosen)
    if any(not _is_hex(text) for text in (route.run_trace, route.run_span)):
        raise DamagedError("route: run_trace and run_span are not hexadecimal")
    if "\0" in route.run_dir:
        raise DamagedError(f"route: run_dir {route.run_dir!r}")
    return route


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return len(text) in (0, 16, 32)
