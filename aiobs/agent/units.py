"""The units of one process: what a GPU's energy is divided among.

A unit is a training step, a request (SERVER or CONSUMER span), or any other span at the top of its process: one
that has no other span of this process above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiobs import names
from aiobs.agent.decode import ENTRANCES, Found
from aiobs.agent.energy import Interval
from aiobs.agent.openings import OpenStep
from aiobs.recorder import layout
from aiobs.telemetry import Row, Shape

LIMIT = 20_000
"""Finished units that wait for a reading; more can only be those of a sampler that says nothing."""
_APART = (names.SPAN_PROCESS, names.SPAN_RUN, names.SPAN_STEP, names.SPAN_RANK_STEP)
"""Spans of ours that stand around units, or show a step, which is counted when it ends whether shown or not."""


class Units:
    """Times in monotonic ns.

    Attributes:
        homes: ids of spans whose children are at the top: none, the process's own, the run's.
    """

    def __init__(self, offset: int, run_span: bytes) -> None:
        """`offset`: wall - monotonic clock, ns."""
        self._offset = offset
        self.homes = {b"", run_span}
        self._finished: dict[object, tuple[int, int]] = {}
        self._open: dict[object, Interval] = {}

    def see(self, rows: Iterable[Row]) -> None:
        """Note the units among finished spans."""
        homes, offset = self.homes, self._offset
        for shape, _, span, parent, start, end, _, _ in rows:
            if (parent in homes or shape.kind in ENTRANCES or span in self._open) and not _apart(shape):
                self._end(span, start - offset, end - offset)

    def step(self, thread: int, start: int, end: int) -> None:
        """Note a finished step."""
        self._end((thread, start), start, end)

    def _end(self, unit: object, start: int, end: int) -> None:
        self._open.pop(unit, None)
        if len(self._finished) >= LIMIT:
            del self._finished[next(iter(self._finished))]
        self._finished[unit] = start, end

    def look(self, marks: Iterable[Found], areas: Iterable[OpenStep]) -> None:
        """Note what is open now."""
        found: dict[object, Interval] = {}
        for mark in marks:
            shape = mark.shape
            if shape.name == names.SPAN_PROCESS and shape.scope == "aiobs":
                self.homes.add(mark.span)
            elif not _apart(shape) and not mark.flags & layout.FLAG_IN_STEP and self._at_top(mark):
                found[mark.span] = mark.start, None
        for area in areas:
            # What began after the last optimizer step belongs to the next step.
            split = area.provisional_end
            found[area.thread, area.start] = area.start, split or None
            if split and any(entry[3] >= split for entry in area.entries):
                found[area.thread, split] = split, None
        # A mark that is cleared a moment after its record was written is not open any more.
        self._open = {unit: times for unit, times in found.items() if unit not in self._finished}

    def _at_top(self, mark: Found) -> bool:
        return mark.parent in self.homes or mark.shape.kind in ENTRANCES or bool(mark.flags & layout.FLAG_REMOTE)

    def all(self) -> Sequence[Interval]:
        """Those that are open and those that have ended and are not settled."""
        return [*self._open.values(), *self._finished.values()]

    def anchors(self) -> list[int]:
        """When those began that are open."""
        return [start for start, _ in self._open.values()]

    def settled(self, until_ns: int) -> None:
        """What ended before that will not be asked for again."""
        self._finished = {unit: times for unit, times in self._finished.items() if times[1] > until_ns}


def _apart(shape: Shape) -> bool:
    return shape.name in _APART and shape.scope == "aiobs"
