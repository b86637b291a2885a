"""What only some spans have: a failure, events, links, attributes that came later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiobs.clock import monotonic_ns
from aiobs.guard import swallow
from aiobs.propagation import Context
from aiobs.recorder import layout as at
from aiobs.recorder.flight import Flight
from aiobs.recorder.hot import thread
from aiobs.recorder.schema import OWN_SCOPE, family, json_bytes, plain
from aiobs.recorder.state import state

EVENT_LIMIT = 128
"""Events and links kept in one span; later ones are left out, counted as clipped."""


class Rest:
    """What a plain span does without.

    Attributes:
        changed: its attributes are no longer those of its mark.
        unmarked: parent and start of a span without a mark.
    """

    __slots__ = ("changed", "flags", "links", "message", "state", "unmarked")

    def __init__(self) -> None:
        self.changed = False
        self.unmarked: tuple[int, int] = (0, 0)
        self.flags = 0
        self.message = ""
        self.state = ""
        self.links: list[list[Any]] = []

    def encode(self, flight: Flight) -> bytes:
        """The JSON object behind a record's values; nothing where there is nothing to say."""
        extra: dict[str, Any] = {}
        if self.message:
            extra["message"] = self.message[: flight.clip_at]
        if self.links:
            if len(self.links) > EVENT_LIMIT:
                flight.add(at.CLIPPED, len(self.links) - EVENT_LIMIT)
            extra["links"] = [[a, b, plain(c, flight.clip_at)] for a, b, c in self.links[:EVENT_LIMIT]]
        if self.state:
            extra["state"] = self.state
        return json_bytes(extra) if extra else b""


def write_event(owner: Context, name: str, attributes: Mapping[str, Any] | None, time_ns: int | None = None) -> None:
    """Record an event of the span `owner`, at `time_ns` (monotonic; now by default)."""
    flight = state.flight
    if flight is None:
        return
    try:
        schema, payload = family(name, 1, OWN_SCOPE, "", flight).encode(attributes or {}, flight)
        trace = int.from_bytes(owner.trace_id[:8], "big"), int.from_bytes(owner.trace_id[8:], "big")
        flags = at.FLAG_IN_STEP if owner.in_step else 0
        flight.write(at.EVENT, flags, at.NO_SLOT, schema, trace, int.from_bytes(owner.span_id, "big"), 0,
                     thread.number, monotonic_ns() if time_ns is None else time_ns, 0, 0, payload)  # fmt: skip
    except Exception as error:
        flight.add(at.UNRECORDED)
        swallow("recorder.event", error)


def type_name(error: BaseException) -> str:
    """The type of `error` as ``error.type`` wants it: with its module, unless it is a builtin."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """The text of `error`, whatever its own ``__str__`` does."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise
        return "<its text cannot be had>"
