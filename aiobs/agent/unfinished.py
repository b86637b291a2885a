"""What waits for spans that are still open: their events, and values logged in them."""

from __future__ import annotations

from typing import Any

from aiobs import names
from aiobs.agent.frozen import freeze_event, thaw_event
from aiobs.telemetry import STATUS_ERROR, Extra, Row, SpanEvent

LIMIT = 10_000
"""Events and values that wait in one process; beyond it the oldest are given up, counted."""
EVENTS_OF_ONE = 256
"""Events kept for one span, the first ones; later ones are counted."""


class Unfinished:
    """By span id; `overflow` counts what was given up."""

    def __init__(self) -> None:
        self._events: dict[bytes, list[SpanEvent]] = {}
        self._attributes: dict[bytes, dict[str, Any]] = {}
        self._count = 0
        self.overflow = 0

    def event(self, span: bytes, event: SpanEvent) -> None:
        """`event` happened in `span`."""
        events = self._events.setdefault(span, [])
        if len(events) >= EVENTS_OF_ONE:
            self.overflow += 1
            return
        events.append(event)
        self._grow()

    def attributes(self, span: bytes, values: dict[str, Any]) -> None:
        """`values` were logged in `span`."""
        found = self._attributes.setdefault(span, {})
        self._count -= len(found)
        found.update(values)
        self._count += len(found) - 1
        self._grow()

    def _grow(self) -> None:
        self._count += 1
        while self._count > LIMIT:
            oldest = self._events or self._attributes
            gone = len(oldest.pop(next(iter(oldest))))
            self._count -= gone
            self.overflow += gone

    def complete(self, rows: list[Row], first: int) -> None:
        """Give the rows from `first` on what waits for them."""
        if not self._events and not self._attributes:
            return
        for index in range(first, len(rows)):
            span = rows[index][2]
            if span in self._events or span in self._attributes:
                rows[index] = self.completed(rows[index])

    def completed(self, row: Row) -> Row:
        """`row` with what waits for it."""
        events = self._events.pop(row[2], None)
        attributes = self._attributes.pop(row[2], None)
        if events is None and attributes is None:
            return row
        extra = row[7] or Extra()
        if events:
            self._count -= len(events)
            # Events written at once come first; those the span brought itself were collected in its process.
            extra.events = sorted([*events, *extra.events], key=lambda event: event.time_ns)
        if attributes:
            self._count -= len(attributes)
            extra.attributes.update(attributes)
        return (*row[:7], extra)

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "events": [
                [span.hex(), [freeze_event(event) for event in events]] for span, events in self._events.items()
            ],
            "attributes": [[span.hex(), values] for span, values in self._attributes.items()],
            "overflow": self.overflow,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        for span, events in state["events"]:
            self._events[bytes.fromhex(span)] = [thaw_event(event) for event in events]
            self._count += len(events)
        for span, values in state["attributes"]:
            self._attributes[bytes.fromhex(span)] = values
            self._count += len(values)
        self.overflow = state["overflow"]


def with_error_type(row: Row) -> Row:
    """`row`; where it failed with an exception and does not say of which type, with ``error.type``."""
    shape, extra = row[0], row[7]
    if (
        extra is None
        or extra.status != STATUS_ERROR
        or names.ERROR_TYPE in extra.attributes
        or names.ERROR_TYPE in shape.keys
    ):
        return row
    for event in reversed(extra.events):
        kind = event.attributes.get(names.EXCEPTION_TYPE)
        if event.name == names.EVENT_EXCEPTION and kind:
            extra.attributes[names.ERROR_TYPE] = kind
            break
    return row
