"""What is known of a streamed answer: when its chunks left, and where it stood still."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.recorder import Span, state
from aiobs.serving.loop_watch import LoopWatch
from aiobs.serving.quantiles import quantiles

STALL_EVENTS = 16
"""Stalls of one answer that get an event; all are counted."""
STALL_RATIO = 4
"""A stall is so many times the mean gap before it."""


class Stream:
    """Counts the gaps between chunks; one for each request.

    Attributes:
        first_ns: when the first chunk, or the first byte of an answer in one piece, left (monotonic); 0: not yet.
        stalls: gaps that were stalls.
    """

    __slots__ = (
        "_counts", "_last_ns", "_longest_ns", "_span", "_start_ns", "_usual_ns", "_watch", "first_ns", "stalls",
    )  # fmt: skip

    def __init__(self, span: Span, start_ns: int, watch: LoopWatch | None) -> None:
        self._span = span
        self._watch = watch
        self._start_ns = self._last_ns = start_ns
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._usual_ns = -1
        self._longest_ns = 0
        self.first_ns = 0
        self.stalls = 0

    def chunk(self) -> None:
        """A chunk leaves now. At most a microsecond: this is called for every token."""
        now = monotonic_ns()
        gap = now - self._last_ns
        self._last_ns = now
        if gap > self._usual_ns and self._unusual(gap, now):
            return
        # quantiles.bucket_of(), written out
        gap |= 32
        octave = gap.bit_length() - 6
        self._counts[(octave << 5) + (gap >> octave)] += 1

    def _unusual(self, gap: int, now: int) -> bool:
        """Look at a gap longer than all before, or long enough for a stall; True: it is none, the first chunk left."""
        stall_ns = int(state.settings.serving_stall_s * 1e9)
        if self._usual_ns < 0:
            if not self.first_ns:
                self.first_ns = now
            self._usual_ns = 0
            return True
        if gap >= stall_ns:
            before = sum(self._counts.values())
            if not before or gap * before >= STALL_RATIO * (now - gap - self.first_ns):
                self._stalled(gap, now, before + 1)
        self._longest_ns = max(self._longest_ns, gap)
        self._usual_ns = min(self._longest_ns, stall_ns - 1)
        return False

    def _stalled(self, gap: int, now: int, chunks: int) -> None:
        self.stalls += 1
        if self.stalls > STALL_EVENTS:
            return
        blocked = 0 if self._watch is None else self._watch.blocked_ns(now - gap, now)
        self._span.event(
            names.EVENT_STALL,
            {
                names.STALL_DURATION: gap / 1e9,
                names.STALL_AFTER: chunks,
                names.STALL_CAUSE: "event_loop" if 2 * blocked >= gap else "upstream",
            },
        )

    @property
    def chunks(self) -> int:
        """Chunks that left so far."""
        return 0 if self._usual_ns < 0 else 1 + sum(self._counts.values())

    def facts(self) -> dict[str, Any]:
        """Attributes of the answer as streamed; empty where no chunk left."""
        if self._usual_ns < 0:
            return {}
        counts = self._counts
        facts: dict[str, Any] = {
            names.STREAM_CHUNKS: self.chunks,
            names.STREAM_FIRST: (self.first_ns - self._start_ns) / 1e9,
        }
        if counts:
            longest_s = self._longest_ns / 1e9
            found = (min(middle_s, longest_s) for middle_s in quantiles(counts, (0.5, 0.95, 0.99)))
            facts[names.STREAM_P50], facts[names.STREAM_P95], facts[names.STREAM_P99] = found
            facts[names.STREAM_MAX] = longest_s
        facts[names.STREAM_STALLS] = self.stalls
        return facts
