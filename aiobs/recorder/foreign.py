"""The recorder for spans that somebody else makes (OpenTelemetry): marks and records with given ids and times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.hot import thread
from aiobs.recorder.rest import EVENT_LIMIT
from aiobs.recorder.schema import family, json_bytes, plain
from aiobs.recorder.state import Foreign, state, wake

_STATUS_FLAGS = {0: 0, 1: at.FLAG_OK, 2: at.FLAG_ERROR}


def set_foreign_context(provider: Foreign | None) -> None:
    """Name the function that tells (token, context) of what OpenTelemetry holds as current; None: nobody.

    The token changes whenever OpenTelemetry's current context does; a span of ours that began under the
    present token is therefore inside OpenTelemetry's span, not around it.
    """
    state.foreign = provider
    state.surrounded = state.surrounded or provider is not None


def wall_offset() -> int:
    """Wall clock minus monotonic clock of this process's record, ns; 0 where nothing is recorded."""
    return state.flight.wall_offset if state.flight is not None else 0


def _trace(trace_id: bytes) -> tuple[int, int]:
    return int.from_bytes(trace_id[:8], "big"), int.from_bytes(trace_id[8:], "big")


def open_mark(
    name: str, kind: int, scope: str, version: str, trace_id: bytes, span_id: bytes, parent_id: bytes,
    start_ns: int, attributes: Mapping[str, Any], *, in_step: bool = False, remote: bool = False,
) -> int:  # fmt: skip
    """Mark a span as open; returns the slot for :func:`write_span` (-1: none free or nothing recorded)."""
    flight = state.flight or (wake() if state.sleeping is not None else None)
    if flight is None:
        return -1
    try:
        slot, shifted = flight.free.pop()
    except IndexError:
        flight.add(at.UNMARKED)
        return -1
    schema, payload = family(name, kind, scope, version, flight).encode(attributes, flight)
    if len(payload) > at.CELL_PAYLOAD:
        payload = b""
    flags = (at.FLAG_IN_STEP if in_step else 0) | (at.FLAG_REMOTE if remote else 0)
    flight.mm[slot + at.HEAD_BYTES : slot + at.HEAD_BYTES + len(payload)] = payload
    number = shifted >> 16
    at.HEAD.pack_into(
        flight.mm, slot, at.SPAN, flags, number, schema, *_trace(trace_id), int.from_bytes(span_id, "big"),
        int.from_bytes(parent_id, "big"), thread.number, len(payload), 0, start_ns, 0, 0, 1,
    )  # fmt: skip
    return number


def write_span(
    slot: int, name: str, kind: int, scope: str, version: str, trace_id: bytes, span_id: bytes, parent_id: bytes,
    start_ns: int, end_ns: int, attributes: Mapping[str, Any], *, status: int = 0, message: str = "",
    events: Iterable[tuple[str, int, Mapping[str, Any]]] = (), links: Iterable[tuple[bytes, bytes, Mapping[str, Any]]] = (),
    trace_state: str = "", in_step: bool = False, remote: bool = False,
) -> None:  # fmt: skip
    """Record a finished span and free its mark. Times in monotonic ns; `status` 0 unset, 1 ok, 2 error."""
    flight = state.flight
    if flight is None:
        return
    extra: dict[str, Any] = {"message": message[: flight.clip_at]} if message else {}
    noted = [[event[0], event[1], plain(event[2], flight.clip_at)] for event in events]
    linked = [[trace.hex(), span.hex(), plain(more, flight.clip_at)] for trace, span, more in links]
    for key, items in (("events", noted), ("links", linked)):
        if items:
            if len(items) > EVENT_LIMIT:
                flight.add(at.CLIPPED, len(items) - EVENT_LIMIT)
            extra[key] = items[:EVENT_LIMIT]
    if trace_state:
        extra["state"] = trace_state
    schema, payload = family(name, kind, scope, version, flight).encode(attributes, flight)
    flags = _STATUS_FLAGS.get(status, 0) | (at.FLAG_IN_STEP if in_step else 0) | (at.FLAG_REMOTE if remote else 0)
    if extra:
        flags |= at.FLAG_EXTRA
        payload += json_bytes(extra)
    if len(payload) > at.PAYLOAD_LIMIT * 2 - at.CELL_PAYLOAD:
        flight.add(at.CLIPPED)
        extra.pop("events", None)
        payload = payload[: at.PAYLOAD_LIMIT] if not extra else family(name, kind, scope, version, flight).encode(attributes, flight)[1] + json_bytes(extra)  # fmt: skip
    flight.write(
        at.SPAN, flags, slot if slot >= 0 else at.NO_SLOT, schema, _trace(trace_id), int.from_bytes(span_id, "big"),
        int.from_bytes(parent_id, "big"), thread.number, start_ns, 0, end_ns, payload,
    )  # fmt: skip
    if slot >= 0:
        place = at.SLOTS_AT + slot * at.CELL_BYTES
        flight.mm[place + at.HEAD_SEQ] = 0
        flight.free.append((place, slot << 16))


__all__ = ["Context", "open_mark", "set_foreign_context", "wall_offset", "write_span"]
