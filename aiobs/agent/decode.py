"""From cells to values: the agent's hot loop.

Plain spans, which are nearly all, become rows at once: one unpacking by schema, three cuts for the ids, the
strings. Everything else becomes a :class:`Found` for :mod:`aiobs.agent.assemble` to think about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from struct import Struct
from typing import Any

from aiobs.agent.plans import TIME_LIMIT, ReadRow, row_function
from aiobs.agent.ring import Cells
from aiobs.agent.table import Schema, Table
from aiobs.agent.untrusted import DamagedError, clean_attributes, parse_object, parse_value
from aiobs.recorder import layout
from aiobs.telemetry import (
    CONSUMER,
    LINK_REMOTE_FLAGS,
    SERVER,
    STATUS_ERROR,
    STATUS_OK,
    Extra,
    Link,
    Row,
    Shape,
    SpanEvent,
)

_SIZE = layout.CELL_BYTES
_KEY = 0xFFFFFFFF_0000_FFFF
"""Of a cell's first word: kind, flags and schema, without the slot."""
_USED_PARTS = Struct("<HH").pack
"""The two fields of a head at offset 44: payload bytes, parts."""
_IN_STEP = layout.FLAG_IN_STEP << 8
ENTRANCES = (SERVER, CONSUMER)
"""Kinds of spans with which a request enters: always given as :class:`Found`, there is one a request."""
_SHAPES_LIMIT = 2000
_PLANS_LIMIT = 20_000


@dataclass(slots=True)
class Found:
    """A record that is not a plain span. Times in monotonic ns; `parent` is b"" for a root.

    Attributes:
        values: of the shape's keys.
        attributes: more of them, from JSON.
        payload: bytes of a STEP or of ARRIVALS.
        extra: for spans: status, events, links and the like, with times already in Unix ns; else None.
    """

    kind: int
    flags: int
    shape: Shape
    trace: bytes
    span: bytes
    parent: bytes
    thread: int
    start: int
    aux: int
    end: int
    values: tuple[Any, ...] = ()
    attributes: dict[str, Any] | None = None
    payload: bytes = b""
    extra: Extra | None = None

    def all_attributes(self) -> dict[str, Any]:
        """Values by key, and the further attributes."""
        found = dict(zip(self.shape.keys, self.values, strict=True))
        found.update(self.attributes or {})
        return found


def _none_wanted(_kind: int, _keys: tuple[str, ...]) -> bool:
    return False


class Decoder:
    """Decodes the records of one flight record.

    Attributes:
        damaged: records that could not be what they said; they are left out.
    """

    def __init__(
        self, table: Table, wall_offset: int, main_thread: int, special: Collection[str] = (),
        wanted: Callable[[int, tuple[str, ...]], bool] = _none_wanted,
    ) -> None:  # fmt: skip
        """Args:
        main_thread: spans of other threads get a ``thread.id``.
        special: names of spans that are wanted as :class:`Found` always.
        wanted: whether spans of that kind with those attribute keys are; asked once for each shape.
        """
        self._table = table
        self._offset = wall_offset
        self._main = main_thread
        self._special = frozenset(special)
        self._wanted = wanted
        self._plans: dict[int, ReadRow | None] = {}
        self._long_plans: dict[int, ReadRow | None] = {}
        self._shapes: dict[tuple[str, int, str, str], Shape] = {}
        self.damaged = 0

    def decode(
        self, cells: Cells, rows: list[Row], within: Callable[[Row], None], take: Callable[[Found], None]
    ) -> None:
        """Append the plain spans to `rows`; call `within` with those of steps, `take` with every other record."""
        little, big, payloads = cells.little, cells.big, cells.payloads
        plans = self._plans
        append = rows.append
        words = memoryview(little).cast("Q")[:: _SIZE // 8].tolist()
        for at, word in zip(range(0, len(little), _SIZE), words):  # noqa: B905
            key = word & _KEY
            try:
                read = plans[key]
            except KeyError:
                read = self._plan(key)
                if len(plans) < _PLANS_LIMIT:
                    plans[key] = read
            if read is not None:
                try:
                    row = read(little, big, at)
                except ValueError:
                    self.damaged += 1
                    continue
                if row is not None:
                    if word & _IN_STEP:
                        within(row)
                    else:
                        append(row)
                    continue
            if word & 0xFF == layout.PART:
                continue
            payload = payloads.get(at, b"")
            if payload is None:  # a part is missing, which is counted
                continue
            row = self._long_row(key, little, big, at, payload) if payload else None
            if row is not None:
                if word & _IN_STEP:
                    within(row)
                else:
                    append(row)
                continue
            found = self.whole(little, at, payload or None)
            if found is None:
                self.damaged += 1
            else:
                take(found)

    def _long_row(self, key: int, little: bytes, big: bytes, at: int, payload: bytes) -> Row | None:
        """The row of a plain span that was continued in parts; None where it takes a closer look."""
        if key not in self._long_plans and len(self._long_plans) < _PLANS_LIMIT:
            self._long_plans[key] = self._plan(key, layout.PAYLOAD_LIMIT)
        read = self._long_plans.get(key)
        if read is None or len(payload) > layout.PAYLOAD_LIMIT:
            return None
        one = b"".join((little[at : at + 44], _USED_PARTS(len(payload), 0), little[at + 48 : at + 80], payload))
        try:
            return read(one, big[at : at + 40], 0)
        except ValueError:
            return None

    def _plan(self, key: int, room: int = layout.CELL_PAYLOAD) -> ReadRow | None:
        if key & 0xFFFF & ~_IN_STEP != layout.SPAN:
            return None
        schema = self._table.schemas.get(key >> 32)
        if schema is None or schema.size > room or schema.shape.name in self._special:
            return None
        if schema.shape.kind in ENTRANCES or self._wanted(schema.shape.kind, schema.shape.keys):
            return None
        return row_function(schema, self._offset, self._main, room)

    def whole(self, raw: bytes, at: int = 0, payload: bytes | None = None, *, mark: bool = False) -> Found | None:
        """The record in the cell at offset `at`, or in an open-span slot (`mark`); None where it is damaged."""
        (kind, flags, _, schema_id, high, low, span, parent, thread, used, parts, start, aux, end, _) = (
            layout.HEAD.unpack_from(raw, at)
        )
        if payload is None:
            if parts or used > layout.CELL_PAYLOAD:
                return None
            payload = raw[at + layout.HEAD_BYTES : at + layout.HEAD_BYTES + used]
        if mark and kind != layout.SPAN:
            return None
        if start >= TIME_LIMIT or end >= TIME_LIMIT or aux >= TIME_LIMIT:
            return None
        trace = high.to_bytes(8, "big") + low.to_bytes(8, "big")
        above = parent.to_bytes(8, "big") if parent else b""
        found = Found(kind, flags, _NO_SHAPE, trace, span.to_bytes(8, "big"), above, thread, start, aux, end)
        if kind in (layout.STEP, layout.ARRIVALS):
            found.payload = payload
            return found
        if kind not in (layout.SPAN, layout.EVENT, layout.SCALARS):
            return None
        if kind == layout.SPAN and (not span or not (high or low) or (end < start and not mark)):
            return None
        try:
            rest = self._values(found, schema_id, payload, mark)
            if kind == layout.SPAN:
                found.extra = self._extra(found, rest if flags & layout.FLAG_EXTRA and not mark else b"")
        except DamagedError:
            return None
        return found

    def _values(self, found: Found, schema_id: int, payload: bytes, mark: bool) -> bytes:
        """Fill in shape and values; returns what follows them in the payload."""
        if schema_id == layout.SCHEMA_JSON:
            if mark and not payload:
                raise DamagedError("nothing is known of this open span")
            entry, rest = parse_object(payload)
            found.shape = self._shape(entry)
            found.attributes = clean_attributes(entry.get("attributes"))
            return rest
        schema = self._table.schemas.get(schema_id)
        if schema is None:
            raise DamagedError(f"unknown shape {schema_id}")
        if mark and not payload and schema.size:  # the attributes did not fit into the slot
            old = schema.shape
            found.shape = self._shape({"name": old.name, "kind": old.kind, "scope": old.scope, "version": old.version})
            return b""
        if len(payload) < schema.size:
            raise DamagedError("shorter than its values")
        values, end = _read_texts(schema, payload)
        found.shape, found.values = schema.shape, values
        return payload[end:]

    def _shape(self, entry: dict[str, Any]) -> Shape:
        name, kind = entry.get("name"), entry.get("kind", 1)
        scope, version = entry.get("scope", "aiobs"), entry.get("version", "")
        if not (
            isinstance(name, str) and isinstance(scope, str) and isinstance(version, str) and kind in (1, 2, 3, 4, 5)
        ):
            raise DamagedError("a record without a proper name")
        shape = self._shapes.get((name, kind, scope, version))
        if shape is None:
            if len(self._shapes) >= _SHAPES_LIMIT:
                self._shapes.clear()
            shape = self._shapes[name, kind, scope, version] = Shape(name, kind, scope, version)
        return shape

    def _extra(self, found: Found, raw: bytes) -> Extra:
        flags = found.flags
        extra = Extra(STATUS_ERROR if flags & layout.FLAG_ERROR else STATUS_OK if flags & layout.FLAG_OK else 0)
        if flags & layout.FLAG_REMOTE:
            extra.flags = LINK_REMOTE_FLAGS
        if found.attributes:
            extra.attributes.update(found.attributes)
        if raw:
            entry, _ = parse_object(raw)
            extra.attributes.update(clean_attributes(entry.get("attributes")))
            extra.message = _string(entry.get("message"))
            extra.trace_state = _string(entry.get("state"))
            extra.events = [self._event(item) for item in _items(entry.get("events"))]
            extra.links = [_link(item) for item in _items(entry.get("links"))]
        return extra

    def _event(self, item: list[Any]) -> SpanEvent:
        name, time_ns, attributes = item
        if not isinstance(time_ns, int) or not 0 <= time_ns < TIME_LIMIT:
            raise DamagedError("an event out of time")
        return SpanEvent(_string(name), time_ns + self._offset, clean_attributes(attributes))


_NO_SHAPE = Shape("")


def _texts(
    texts: tuple[tuple[int, bool], ...], values: tuple[Any, ...], raw: bytes, at: int, limit: int
) -> tuple[Any, ...] | None:
    """`values` with the strings in place of their lengths; None where they are damaged."""
    found = list(values)
    try:
        for index, is_json in texts:
            end = at + found[index]
            piece = raw[at:end]
            found[index] = parse_value(piece) if is_json else piece.decode()
            at = end
    except (UnicodeDecodeError, DamagedError):
        return None
    return tuple(found) if at <= limit else None


def _read_texts(schema: Schema, payload: bytes) -> tuple[tuple[Any, ...], int]:
    lengths = schema.unpack(payload)
    values = _texts(schema.texts, lengths, payload, schema.size, len(payload))
    if values is None:
        raise DamagedError("strings that are none")
    return values, schema.size + sum(lengths[index] for index, _ in schema.texts)


def _items(items: Any) -> list[list[Any]]:
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, list) and len(item) == 3 for item in items):
        raise DamagedError("events or links that are none")
    return items


def _string(text: Any) -> str:
    return text if isinstance(text, str) else ""


def _link(item: list[Any]) -> Link:
    trace, span, attributes = item
    try:
        link = Link(bytes.fromhex(trace), bytes.fromhex(span), clean_attributes(attributes))
    except (TypeError, ValueError) as error:
        raise DamagedError("a link without ids") from error
    if len(link.trace_id) != 16 or len(link.span_id) != 8:
        raise DamagedError("a link with ids of the wrong length")
    return link
