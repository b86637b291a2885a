"""Making a running job visible: spans open for long are announced by a zero-length ``<name> (started)`` child."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiobs import ids, names
from aiobs.agent.decode import Found
from aiobs.recorder import layout
from aiobs.telemetry import Extra, Row, Shape

LOOK_NS = 500_000_000
"""Between two looks at the open spans of a process."""


class Announcer:
    """Announces each open span of one process once."""

    def __init__(self, after_ns: int) -> None:
        """`after_ns`: how long a span must have been open."""
        self._after_ns = after_ns
        self._announced: set[bytes] = set()
        self._next = 0

    def due(self, now: int) -> bool:
        """Whether it is time to look again (monotonic ns)."""
        if now < self._next:
            return False
        self._next = now + LOOK_NS
        return True

    def announce(self, found: list[Found], offset: int, now: int) -> list[Row]:
        """Announcements for those of the open spans that are due.

        Spans within a step are not announced: whether their trace is kept is not known yet.
        """
        self._announced &= {mark.span for mark in found}
        rows: list[Row] = []
        for mark in found:
            if mark.span in self._announced or mark.flags & layout.FLAG_IN_STEP or now - mark.start < self._after_ns:
                continue
            self._announced.add(mark.span)
            shape = _shape(mark.shape.name, mark.shape.kind, mark.shape.scope, mark.shape.version)
            at = mark.start + offset
            rows.append((shape, mark.trace, ids.started_span_id(mark.span), mark.span, at, at, (), Extra(attributes=mark.all_attributes())))  # fmt: skip
        return rows

    def snapshot(self) -> list[str]:
        """JSON-able state."""
        return [span.hex() for span in self._announced]

    def restore(self, state: list[Any]) -> None:
        """Take over what `snapshot` gave."""
        self._announced = {bytes.fromhex(span) for span in state}


@lru_cache(maxsize=1024)
def _shape(name: str, kind: int, scope: str, version: str) -> Shape:
    return Shape(name + names.STARTED_SUFFIX, kind, scope, version)
