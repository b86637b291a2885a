"""Making a running job visible: spans open for long are announced by a zero-length ``<name> (started)`` child."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from aiobs import ids, names
from aiobs.agent.decode import Found
from aiobs.agent.steps import Step
from aiobs.recorder import layout
from aiobs.telemetry import Extra, Row, Shape

LOOK_NS = 500_000_000
"""Between two looks at the open spans of a process."""
HANG_RATIO = 4
"""A step in which nothing happens for so many times the usual duration of a whole one hangs."""


class Announcer:
    """Announces each open span of one process once, and each step that hangs."""

    def __init__(self, after_ns: int) -> None:
        """`after_ns`: how long a span must have been open."""
        self._after_ns = after_ns
        self._announced: set[bytes] = set()
        self._steps: deque[bytes] = deque(maxlen=64)
        self._next = 0

    def due(self, now: int) -> bool:
        """Whether it is time to look again (monotonic ns)."""
        if now < self._next:
            return False
        self._next = now + LOOK_NS
        return True

    def spans(self, found: list[Found], offset: int, now: int) -> list[Row]:
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

    def hangs(self, idle_ns: int, median_ns: int) -> bool:
        """Whether a step in which no phase began or ended for so long is to be announced."""
        return idle_ns >= max(self._after_ns, HANG_RATIO * median_ns)

    def step(self, step: Step, offset: int) -> list[Row]:
        """The announcement of an open step, with the phase it is in, unless it is announced already."""
        if step.span in self._steps:
            return []
        self._steps.append(step.span)
        shape = _shape(names.SPAN_RANK_STEP if step.root else names.SPAN_STEP, 1, "aiobs", "")
        extra = Extra(attributes={names.STEP: step.number})
        inside = [phase.name for phase in step.phases if phase.open]
        if inside:
            extra.attributes[names.PHASE] = inside[-1]
        at = step.start + offset
        return [(shape, step.trace, ids.started_span_id(step.span), step.span, at, at, (), extra)]

    def snapshot(self) -> list[list[str]]:
        """JSON-able state."""
        return [[span.hex() for span in self._announced], [span.hex() for span in self._steps]]

    def restore(self, state: list[list[str]]) -> None:
        """Take over what `snapshot` gave."""
        spans, steps = state
        self._announced = {bytes.fromhex(span) for span in spans}
        self._steps.extend(bytes.fromhex(span) for span in steps)


@lru_cache(maxsize=1024)
def _shape(name: str, kind: int, scope: str, version: str) -> Shape:
    return Shape(name + names.STARTED_SUFFIX, kind, scope, version)
